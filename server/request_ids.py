"""Request ids: `x-request-id` and `x-ms-client-request-id`, taken up and echoed."""

import logging
import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    """ASGI middleware. It stands before all that answers, so that an unexpected error's answer
    carries the ids, too. request.state.ids: {"id", and "client" where the client gave one}."""

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
        scope.setdefault("state", {})["ids"] = {
            name: ids[header]
            for name, header in (("id", _REQUEST_ID), ("client", _CLIENT_ID))
            if header in ids
        }
        has_begun = False

        async def send_with_ids(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                MutableHeaders(scope=message).update(ids)
            await send(message)

        app = error_response(*error_answer(bad[0])) if bad else self._app
        try:
            await app(scope, receive, send_with_ids)
        except Exception as error:  # a bug of ours: the log says all, the caller gets the id
            logger.exception("request %s failed unexpectedly", ids[_REQUEST_ID])
            if not has_begun:
                await error_response(*error_answer(error))(scope, receive, send_with_ids)


def _bad_id(name: str, value: str) -> APIError:
    """Why an id is refused that could break a log line or a header."""
    if len(value) > _MAX_ID:
        return HeadersTooLargeError(
            f"{name} has {len(value)} characters; allowed: {_MAX_ID}", ("header", name)
        )
    return BadHeaderError(
        f"{name} must be printable ASCII characters without spaces", ("header", name)
    )
