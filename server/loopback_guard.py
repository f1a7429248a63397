"""A server on loopback that asks for no key still has callers it must not serve: web pages.

Any page that a browser on this machine shows can send requests here. It cannot hide where it came
from: the browser says so in Origin and Sec-Fetch-Site, and when the page's own name was made to
point at loopback (DNS rebinding), that name stands in Host.
"""

import re
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .auth import PUBLIC_PATHS
from .errors import ForbiddenError, error_answer, error_response

_HOST = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::\d*)?")
# Names that nobody can register; the last is how a container calls the machine that it runs on.
_LOCAL_NAMES = re.compile(r"(.+\.)?localhost|host\.docker\.internal")


class LoopbackGuard:
    """ASGI middleware: 403 unless Host names this machine and no other site's page is asking."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            error = _refusal(Headers(scope=scope))
            if error is not None:
                await error_response(*error_answer(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refusal(headers: Headers) -> ForbiddenError | None:
    host = headers.get("host", "").lower()
    if not _is_local(host):
        return ForbiddenError(
            "without a key this server answers only to localhost and loopback addresses as its "
            "Host; start it with --api-key, or with --no-auth to let anyone call"
        )
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") or (
        origin is not None and origin.lower().partition("://")[2] != host
    ):
        return ForbiddenError(
            "without a key this server takes no requests from other sites' pages; start it with "
            "--api-key, or with --no-auth to let anyone call"
        )
    return None


def _is_local(host: str) -> bool:
    """Whether a Host header, which may carry a port, names this machine."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1] or found[2]
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return _LOCAL_NAMES.fullmatch(name) is not None
