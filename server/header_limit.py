"""A request's headers may only be so large, and so many."""

from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import HeadersTooLargeError, error_answer, error_response

MAX_HEADERS, MAX_BYTES = 100, 16 << 10


class HeaderLimit:
    """ASGI middleware: 431 for more. What reads HTTP takes a head of any size that comes in one
    piece."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = scope["headers"]
            num_bytes = sum(len(name) + len(value) for name, value in headers)
            num_bytes += len(scope["raw_path"]) + len(scope["query_string"])
            if len(headers) > MAX_HEADERS or num_bytes > MAX_BYTES:
                error = HeadersTooLargeError(
                    f"the request has {len(headers)} headers and {num_bytes} bytes of them and its "
                    f"address; allowed: {MAX_HEADERS} and {MAX_BYTES}"
                )
                await error_response(*error_answer(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)
