"""OpenAI's routes: chat completions and models, also under the names that Azure OpenAI has."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..answer import answer_chat
from ..completion import Processor
from ..errors import NotFoundError
from ..extra_parameters import refuse_unsupported
from ..json_body import JSONBodyRoute
from ..json_response import AsciiJSONResponse
from ..openapi import API_VERSION, ModelList, ModelObject, answers, chat_answers
from ..schemas import ChatCompletionsRequest
from ..streaming import UsagePlace
from .deps import EngineDep, ProcessorDep

router = APIRouter(route_class=JSONBodyRoute)
deployments = APIRouter(route_class=JSONBodyRoute, prefix="/openai/deployments/{deployment}")


@router.post("/chat/completions", responses=chat_answers())
async def create_openai_chat_completion(
    body: ChatCompletionsRequest, request: Request, engine: EngineDep, processor: ProcessorDep
) -> Response:
    """Answer a conversation. Whatever model is named, it is the one there is."""
    refuse_unsupported(body)
    usage = UsagePlace.OWN_CHUNK if body.includes_usage else UsagePlace.NOWHERE
    return await answer_chat(body, request, engine, processor, usage)


@deployments.post(
    "/chat/completions",
    responses=chat_answers(),
    openapi_extra={"parameters": [API_VERSION]},
)
async def create_deployment_chat_completion(
    deployment: str,
    body: ChatCompletionsRequest,
    request: Request,
    engine: EngineDep,
    processor: ProcessorDep,
) -> Response:
    """The same under Azure OpenAI's name for it. Any deployment's name will do."""
    return await create_openai_chat_completion(body, request, engine, processor)


@router.get("/models", responses=answers(ModelList))
async def list_models(request: Request, processor: ProcessorDep) -> Response:
    """The one model there is."""
    return AsciiJSONResponse({"object": "list", "data": [_model(request, processor)]})


@router.get("/models/{model:path}", responses=answers(ModelObject, 404, 422))
async def get_model(model: str, request: Request, processor: ProcessorDep) -> Response:
    """The model of this name."""
    if model != processor.card.served_name:
        raise NotFoundError(f"there is no such model; there is {processor.card.served_name}")
    return AsciiJSONResponse(_model(request, processor))


def _model(request: Request, processor: Processor) -> dict[str, object]:
    return {
        "id": processor.card.served_name,
        "object": "model",
        "created": request.app.state.started,
        "owned_by": processor.card.provider,
    }
