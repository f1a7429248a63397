"""Request ids: `x-request-id` and `x-ms-client-request-id`, taken up, echoed and logged."""

import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import PUBLIC_PATHS
from .errors import (
    APIError,
    BadHeaderError,
    HeadersTooLargeError,
    error_answer,
    error_response,
)

logger = logging.getLogger(__name__)
_REQUEST_ID, _CLIENT_ID = "x-request-id", "x-ms-client-request-id"
_MAX_ID = 100
_GOOD_ID = re.compile(rf"[!-~]{{1,{_MAX_ID}}}")


class RequestIds:
    """ASGI middleware: one log line per request, probes excepted; never a prompt or a key. The
    outermost one, so that an unexpected error's answer carries the ids, too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = {name: headers.get(name, "") for name in (_REQUEST_ID, _CLIENT_ID)}
        ids = {name: value for name, value in given.items() if _GOOD_ID.fullmatch(value)}
        bad = [_bad_id(name, value) for name, value in given.items() if value and name not in ids]
        ids.setdefault(_REQUEST_ID, str(uuid4()))
        status, start = 0, time.monotonic()

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(ids)
            await send(message)

        app = error_response(*error_answer(bad[0])) if bad else self._app
        try:
            await app(scope, receive, send_with_ids)
        except Exception as error:  # a bug of ours: the log says all, the caller gets the id
            logger.exception("request %s failed unexpectedly", ids[_REQUEST_ID])
            if status == 0:
                await error_response(*error_answer(error))(scope, receive, send_with_ids)
        finally:
            if scope["path"] not in PUBLIC_PATHS:
                logger.info(
                    "%s %s %d %.0f ms id=%s client=%s",
                    scope["method"],
                    scope["path"].encode("unicode_escape").decode()[:200],
                    status,
                    (time.monotonic() - start) * 1000,
                    ids[_REQUEST_ID],
                    ids.get(_CLIENT_ID, "-"),
                )


def _bad_id(name: str, value: str) -> APIError:
    """Why an id is refused that could break a log line or a header."""
    if len(value) > _MAX_ID:
        return HeadersTooLargeError(
            f"{name} has {len(value)} characters; allowed: {_MAX_ID}", ("header", name)
        )
    return BadHeaderError(
        f"{name} must be printable ASCII characters without spaces", ("header", name)
    )
