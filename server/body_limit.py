"""A request's body may only be so large, and take so long; no byte beyond that is kept."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware. The framework's own answers a large body in plain text, which no SDK reads.

    To whoever reads the body it raises HTTPException: 413, whatever Content-Length claims; and 408
    after max_receive_s, and as much again for each MiB that has come.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_receive_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_receive_s = max_receive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = asyncio.get_running_loop().time()
        num_bytes, is_complete = 0, False

        async def receive_within_limit() -> Message:
            nonlocal num_bytes, is_complete
            if is_complete:  # what comes is the client's leaving, whenever it leaves
                return await receive()
            patience = self._max_receive_s * (1 + num_bytes / 2**20)
            try:
                async with asyncio.timeout_at(start + patience):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, headers={"Connection": "close"}) from None
            num_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if num_bytes > self._max_bytes:
                raise HTTPException(413)
            return message

        await self._app(scope, receive_within_limit, send)
