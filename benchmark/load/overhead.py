"""What the load generator itself costs: how late its event loop is, and its processor time."""

import asyncio
import time
from types import TracebackType
from typing import Self

_PERIOD_S = 0.01


class Overhead:
    """Watches the running event loop and this process while the context is open.

    lags_s: by how much a sleep of 10 ms overshot, again and again. A piece of text that comes
    meanwhile is noticed that much later. cpu_s: of all threads. wall_s: how long it watched.
    """

    def __init__(self) -> None:
        self.lags_s: list[float] = []
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(self._measure_lags())
        self.cpu_s, self.wall_s = -time.process_time(), -time.perf_counter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cpu_s += time.process_time()
        self.wall_s += time.perf_counter()
        assert self._watch is not None
        self._watch.cancel()

    async def _measure_lags(self) -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(_PERIOD_S)
            self.lags_s.append(time.perf_counter() - start - _PERIOD_S)
