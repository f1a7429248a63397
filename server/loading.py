"""What an operator sees while the weights load: a bar on a terminal, lines elsewhere."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from scoring.engine_client import EngineClient, EngineState

logger = logging.getLogger(__name__)
_POLL_S, _LINE_EVERY_S = 0.1, 2.0


async def report_loading(engine: EngineClient, on_failure: Callable[[str], None]) -> None:
    """Report until the engine is ready; call on_failure if it will never be."""
    start = time.monotonic()
    if sys.stderr.isatty():
        await _bar(engine)
    else:
        await _lines(engine)
    if engine.state is EngineState.FAILED:
        on_failure(engine.failure or "the engine could not be built")
    elif engine.state.is_serving and engine.limits is not None:
        logger.info(
            "ready after %.1f s; context %d tokens%s",
            time.monotonic() - start,
            engine.limits.max_model_len,
            f"; {len(engine.members)} engines" if engine.members else "",
        )


def loaded_percent(engine: EngineClient) -> float:
    """How much of the weights is read, 0 … 100."""
    return 100.0 * engine.loaded_bytes / engine.total_bytes if engine.total_bytes else 0.0


async def _bar(engine: EngineClient) -> None:
    columns = (TextColumn("loading weights"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("loading", total=None)
        while engine.state is EngineState.LOADING:
            progress.update(task, completed=engine.loaded_bytes, total=engine.total_bytes or None)
            await asyncio.sleep(_POLL_S)


async def _lines(engine: EngineClient) -> None:
    start = last = time.monotonic()
    while engine.state is EngineState.LOADING:
        await asyncio.sleep(_POLL_S)
        now = time.monotonic()
        if engine.loaded_bytes and now - last >= _LINE_EVERY_S:
            last, rate = now, engine.loaded_bytes / (now - start)
            logger.info(
                "loading %.0f %% (%.1f of %.1f GB, %.1f GB/s, eta %.0f s)",
                loaded_percent(engine),
                engine.loaded_bytes / 1e9,
                engine.total_bytes / 1e9,
                rate / 1e9,
                (engine.total_bytes - engine.loaded_bytes) / rate,
            )
