"""Who may call: every path needs the key, save those that probes ask."""

import hmac
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import UnauthorizedError, error_answer, error_response

PUBLIC_PATHS = frozenset({"/", "/health/live", "/health/ready"})


class KeyAuth:
    """ASGI middleware: `Authorization: Bearer KEY`, `Authorization: KEY` or `api-key: KEY`.

    Digests are compared, in constant time, so neither the key nor its length shows in the timing.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._digest = sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            headers = Headers(scope=scope)
            # Both are looked at, whatever the first one gave.
            allowed = [self._matches(value) for value in _carried(headers)]
            if not any(allowed):
                error = UnauthorizedError(
                    "the key is missing or wrong; send it as 'Authorization: Bearer KEY' or "
                    "'api-key: KEY'"
                )
                await error_response(*error_answer(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _matches(self, value: str) -> bool:
        return hmac.compare_digest(sha256(value.encode()).digest(), self._digest)


def _carried(headers: Headers) -> list[str]:
    """The keys that a request carries."""
    authorization = headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else authorization.strip()
    return [bearer, headers.get("api-key", "")]
