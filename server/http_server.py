"""uvicorn's server, with a drain that its callers and their load balancers can see."""

import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn

from .drain import Drain

logger = logging.getLogger("phi3v")

# For the last bytes of answers that the drain has cut off.
CLOSE_S = 2


class DrainingServer(uvicorn.Server):
    """uvicorn stops listening at the first signal, and whoever comes then is turned away without a
    word. This one goes on listening while it drains, so that probes hear that it is not ready and
    callers when to try again. It ends when nothing is open any more, or after drain_s.

    cut_off: ends the requests that are open by then, each with an error.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        drain_s: float,
        cut_off: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_s = drain_s
        self._cut_off = cut_off
        self._deadline = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where it listens, which with port 0 only the socket knows."""
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port, *_ = listening.getsockname()
                scheme = "https" if self.config.is_ssl else "http"
                logger.info("listening on %s://%s:%d", scheme, host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the drain; a second one ends the process at once."""
        if self._drain.has_begun:
            os._exit(128 + sig)
        self._captured_signals.append(sig)
        self._deadline = time.monotonic() + self._drain_s
        self._drain.begin()
        if self._drain.num_open:
            name, num_open = signal.Signals(sig).name, self._drain.num_open
            logger.info("%s: waiting %g s for %d requests", name, self._drain_s, num_open)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; true ends the server."""
        if await super().on_tick(counter):
            return True
        if not self._drain.has_begun:
            return False
        if self._drain.num_open and time.monotonic() >= self._deadline:
            logger.warning("%d requests are cut off", self._drain.num_open)
            await self._cut_off()
            return True
        return not self._drain.num_open
