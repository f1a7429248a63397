"""POST /chat/completions."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..completion import start_completion
from ..extra_parameters import apply_extra_parameters
from ..json_body import JSONBodyRoute
from ..json_response import AsciiJSONResponse
from ..schemas import ChatCompletionsRequest
from ..streaming import EventStream, completion_events, unless_client_leaves, whole_completion
from .deps import EngineDep, ProcessorDep

router = APIRouter(route_class=JSONBodyRoute)


@router.post("/chat/completions")
async def create_chat_completion(
    body: ChatCompletionsRequest, request: Request, engine: EngineDep, processor: ProcessorDep
) -> Response:
    """Answer a conversation, whole or streamed."""
    body = apply_extra_parameters(body, request.headers)
    caller = getattr(request.state, "caller", b"")
    starting = start_completion(body, processor, engine, caller)
    completion = await unless_client_leaves(request, starting)
    request.state.tokens.reserve(completion)
    if body.stream:
        return EventStream(completion_events(completion, engine))
    whole = await unless_client_leaves(request, whole_completion(completion, engine))
    return AsciiJSONResponse(whole)
