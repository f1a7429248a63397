"""What operators and probes see while the weights load: a bar on a terminal, lines elsewhere."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from scoring.engine_client import EngineClient, EngineState, EngineView

logger = logging.getLogger(__name__)
_POLL_S, _LINE_EVERY_S = 0.1, 2.0


class Loading:
    """How far an engine is on its way: starting → loading → warming.

    Starting: its process imports what it needs. Warming: the weights are there, and what is
    compiled, measured or captured before the first request is under way; then warm_up runs.
    """

    def __init__(
        self, engine: EngineClient, warm_up: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._engine = engine
        self._warm_up = warm_up
        self.is_warm = warm_up is None
        self._since: float | None = None

    async def report(self, on_failure: Callable[[str], None]) -> None:
        """Report until the engine is ready; call on_failure if it will never be."""
        engine, start = self._engine, time.monotonic()
        await (self._bar() if sys.stderr.isatty() else self._lines())
        if engine.state is EngineState.FAILED:
            on_failure(engine.failure or "the engine could not be built")
        elif engine.state.is_serving and engine.limits is not None:
            if self._warm_up is not None:
                await self._warm_up()
            self.is_warm = True
            logger.info(
                "ready after %.1f s; context %d tokens%s",
                time.monotonic() - start,
                engine.limits.max_model_len,
                f"; {len(engine.members)} engines" if engine.members else "",
            )

    @property
    def stage(self) -> str:
        return loading_stage(self._engine)

    @property
    def eta_s(self) -> float | None:
        """Until the weights are read; None while that cannot be told."""
        engine = self._engine
        if self._since is None or not engine.loaded_bytes:
            return None
        rate = engine.loaded_bytes / max(time.monotonic() - self._since, 1e-3)
        return (engine.total_bytes - engine.loaded_bytes) / rate

    async def _bar(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, TransferSpeedColumn(), transient=True) as progress:
            task = progress.add_task(self.stage, total=None)
            while await self._is_coming():
                progress.update(
                    task,
                    description=self.stage,
                    completed=self._engine.loaded_bytes,
                    total=self._engine.total_bytes or None,
                )

    async def _lines(self) -> None:
        last, stage = time.monotonic(), ""
        while await self._is_coming():
            now = time.monotonic()
            if self.stage == "loading" and self.eta_s is not None and now - last >= _LINE_EVERY_S:
                last = now
                logger.info(
                    "loading %.0f %% (%.1f of %.1f GB, eta %.0f s)",
                    loaded_percent(self._engine),
                    self._engine.loaded_bytes / 1e9,
                    self._engine.total_bytes / 1e9,
                    self.eta_s,
                )
            elif self.stage == "warming" != stage:
                logger.info("the weights are loaded; warming up")
            stage = self.stage

    async def _is_coming(self) -> bool:
        """Wait a moment → whether it is still on its way."""
        await asyncio.sleep(_POLL_S)
        if self._since is None and self.stage != "starting":
            self._since = time.monotonic()
        return self._engine.state is EngineState.LOADING


def loading_stage(engine: EngineView) -> str:
    """Of an engine that is LOADING."""
    if not engine.total_bytes:
        return "starting"
    return "loading" if engine.loaded_bytes < engine.total_bytes else "warming"


def loaded_percent(engine: EngineView) -> float:
    """How much of the weights is read, 0 … 100."""
    return 100.0 * engine.loaded_bytes / engine.total_bytes if engine.total_bytes else 0.0
