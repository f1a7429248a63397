"""Who may call: every path asks for a key, save those that probes ask."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import UnauthorizedError, error_answer, error_response
from .keys import KeyRing

PUBLIC_PATHS = frozenset({"/", "/health/live", "/health/ready"})


class CallerAuth:
    """ASGI middleware: `Authorization: Bearer KEY`, `Authorization: KEY` or `api-key: KEY`.

    It stands before the routes and denies what it does not know, so that a new route is private
    until its path is written down above. request.state.caller is then the digest of the key.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            # Both are looked at, whatever the first one gave.
            found = [self._keys.find(value) for value in _carried(Headers(scope=scope))]
            caller = next(filter(None, found), None)
            if caller is None:
                error = UnauthorizedError(
                    "the key is missing or wrong; send it as 'Authorization: Bearer KEY' or "
                    "'api-key: KEY'"
                )
                await error_response(*error_answer(error))(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)


def _carried(headers: Headers) -> list[str]:
    """The keys that a request carries."""
    authorization = headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else authorization.strip()
    return [bearer, headers.get("api-key", "")]
