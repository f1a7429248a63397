"""Leaving in good order: what runs may finish, nothing new begins."""

from starlette.types import ASGIApp, Receive, Scope, Send

from .auth import PUBLIC_PATHS
from .errors import UnavailableError, error_answer, error_response


class Drain:
    """Whether this server is on its way out, and how many requests it still answers."""

    def __init__(self) -> None:
        self.has_begun = False
        self.num_open = 0

    def begin(self) -> None:
        """May be called by a signal's handler."""
        self.has_begun = True


class DrainGuard:
    """ASGI middleware that counts what is open and, once the drain has begun, refuses what is new:
    503 with Retry-After, by which time another server or the next one is there. Probes are always
    answered."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        if self._drain.has_begun:
            refusal = error_response(*error_answer(UnavailableError("the server is going down")))
            refusal.headers["Connection"] = "close"
            await refusal(scope, receive, send)
            return
        self._drain.num_open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._drain.num_open -= 1
