"""Server-sent events that every SDK can read, and leaving in good order.

Azure's Python SDK is not an SSE parser: every line must be `data: ` + JSON, ended by a bare line
feed; no comments, no other fields. So there are no keep-alives, and JSON is pure ASCII.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from enum import Enum, auto
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Send

from scoring.engine_client import EngineClient

from .completion import Completion, Delta
from .errors import error_answer
from .json_response import to_ascii_json
from .unread_deltas import merge_unread

logger = logging.getLogger(__name__)
_DONE = b"data: [DONE]\n\n"
T = TypeVar("T")


class UsagePlace(Enum):
    """Where a stream tells the usage. LAST_CHUNK: with the finish reason, as Azure's clients
    read it. OWN_CHUNK: in a chunk of its own without a choice, and null in the others, as OpenAI
    does when `stream_options.include_usage` asks for it."""

    LAST_CHUNK = auto()
    OWN_CHUNK = auto()
    NOWHERE = auto()


class ClientLeftError(Exception):
    """The client closed its connection before the answer was ready."""


class StreamBrokenError(Exception):
    """The stream's error is out as its last event; the connection must not end cleanly."""


class EventStream(StreamingResponse):
    """A stream of whole events that closes its generator at once, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._events) as events:
            try:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except StreamBrokenError:
                # Leaving the response open makes the server drop the connection. Nothing else
                # lets the SDKs see an error that comes after the first byte.
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def completion_events(
    completion: Completion,
    engine: EngineClient,
    usage: UsagePlace = UsagePlace.LAST_CHUNK,
    *,
    has_timings: bool = False,
) -> AsyncGenerator[bytes, None]:
    """The events of one completion: role, text, the finish, the usage, `[DONE]`. has_timings: the
    last one before that tells how long each stage took, too."""
    head = _head(completion)
    if usage is UsagePlace.OWN_CHUNK:
        head["usage"] = None
    yield _chunk(head, {"role": "assistant", "content": ""})
    try:
        async with aclosing(merge_unread(completion.deltas(engine))) as deltas:
            async for delta in deltas:
                if delta.text or delta.logprobs:
                    yield _chunk(head, {"content": delta.text}, delta)
                if delta.finish_reason is not None:
                    if usage is UsagePlace.LAST_CHUNK:
                        head["usage"] = completion.usage
                    if has_timings and usage is not UsagePlace.OWN_CHUNK:
                        head["timings_ms"] = completion.record.milliseconds()
                    yield _chunk(head, {"content": ""}, finish=delta)
    except Exception as error:
        logger.warning("request %s failed: %s", completion.id, type(error).__name__)
        _, body = error_answer(error)
        yield _event({**_head(completion), "choices": [], "error": body["error"]})
        raise StreamBrokenError from error
    if usage is UsagePlace.OWN_CHUNK:
        timings = {"timings_ms": completion.record.milliseconds()} if has_timings else {}
        yield _event({**head, "choices": [], "usage": completion.usage, **timings})
    yield _DONE


def _chunk(
    head: dict[str, Any],
    delta: dict[str, Any],
    text: Delta | None = None,
    finish: Delta | None = None,
) -> bytes:
    """One event. delta has no key that is null: .NET's reader does not expect any."""
    choice = {
        "index": 0,
        "delta": delta,
        "finish_reason": finish.finish_reason if finish else None,
        "logprobs": {"content": text.logprobs} if text and text.logprobs else None,
    }
    return _event({**head, "choices": [choice]})


def _head(completion: Completion) -> dict[str, Any]:
    return {
        "id": completion.id,
        "object": "chat.completion.chunk",
        "created": completion.created,
        "model": completion.model,
    }


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {to_ascii_json(value)}\n\n".encode("ascii")


async def whole_completion(completion: Completion, engine: EngineClient) -> dict[str, Any]:
    """The answer in one piece."""
    text, logprobs, reason = "", [], None
    async with aclosing(completion.deltas(engine)) as deltas:
        async for delta in deltas:
            text += delta.text
            logprobs += delta.logprobs or []
            reason = delta.finish_reason
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "tool_calls": None},
        "finish_reason": reason,
        "logprobs": {"content": logprobs} if completion.has_logprobs else None,
    }
    return {
        **_head(completion),
        "object": "chat.completion",
        "choices": [choice],
        "usage": completion.usage,
    }


async def unless_client_leaves(request: Request, work: Awaitable[T]) -> T:
    """Await the work, but cancel it as soon as the client is gone.

    Frameworks do not cancel a handler that has not answered yet; only a reader of the connection
    learns of its end. Raises ClientLeftError.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        return await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
