"""Azure's POST /chat/completions."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..answer import answer_chat
from ..extra_parameters import apply_extra_parameters
from ..json_body import JSONBodyRoute
from ..openapi import API_VERSION, EXTRA_PARAMETERS_HEADER, chat_answers
from ..schemas import ChatCompletionsRequest
from ..streaming import UsagePlace
from .deps import EngineDep, ProcessorDep

router = APIRouter(route_class=JSONBodyRoute)


@router.post(
    "/chat/completions",
    responses=chat_answers(),
    openapi_extra={"parameters": [API_VERSION, EXTRA_PARAMETERS_HEADER]},
)
async def create_chat_completion(
    body: ChatCompletionsRequest, request: Request, engine: EngineDep, processor: ProcessorDep
) -> Response:
    """Answer a conversation, whole or streamed."""
    chat = apply_extra_parameters(body, request.headers)
    return await answer_chat(chat, request, engine, processor, UsagePlace.LAST_CHUNK)
