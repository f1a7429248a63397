"""How late the event loop is: what every answer and every probe has to wait for."""

import asyncio
import time
from collections.abc import Callable

_EVERY_S = 0.5


async def watch_event_loop(on_lag: Callable[[float], None]) -> None:
    """Call on_lag twice a second with the seconds that it woke too late. For ever."""
    while True:
        start = time.monotonic()
        await asyncio.sleep(_EVERY_S)
        on_lag(max(0.0, time.monotonic() - start - _EVERY_S))
