"""The one way from a chat request to its answer, whatever route it came by."""

from fastapi import Request
from starlette.responses import Response

from scoring.engine_client import EngineClient

from .completion import Completion, Processor, start_completion
from .json_response import AsciiJSONResponse
from .prompt_log import log_prompt
from .schemas import ChatCompletionsRequest
from .streaming import (
    EventStream,
    UsagePlace,
    completion_events,
    unless_client_leaves,
    whole_completion,
)


async def begin(
    chat: ChatCompletionsRequest, request: Request, engine: EngineClient, processor: Processor
) -> Completion:
    """Take a conversation in, as whoever calls, and take its tokens off that caller's quota.

    Raises whatever refuses a request, and ClientLeftError.
    """
    if request.app.state.log_prompts:
        log_prompt(chat, request.state.ids["id"])
    caller = getattr(request.state, "caller", b"")
    starting = start_completion(chat, processor, engine, request.state.record, caller)
    completion = await unless_client_leaves(request, starting)
    await request.state.tokens.reserve(completion)
    return completion


async def answer_chat(
    chat: ChatCompletionsRequest,
    request: Request,
    engine: EngineClient,
    processor: Processor,
    usage: UsagePlace,
) -> Response:
    """Answer a conversation whose parameters are judged, whole or streamed.

    usage: where a stream tells it; a whole answer always does. Raises what `begin` raises.
    """
    completion = await begin(chat, request, engine, processor)
    if chat.stream:
        events = completion_events(completion, engine, usage, has_timings=chat.includes_timings)
        return EventStream(events)
    whole = await unless_client_leaves(request, whole_completion(completion, engine))
    return AsciiJSONResponse(whole)
