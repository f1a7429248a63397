"""GET /info: which model this is."""

from fastapi import APIRouter
from starlette.responses import Response

from ..json_response import AsciiJSONResponse
from ..openapi import API_VERSION, Info, answers
from .deps import ProcessorDep

router = APIRouter()


@router.get("/info", responses=answers(Info), openapi_extra={"parameters": [API_VERSION]})
async def get_info(processor: ProcessorDep) -> Response:
    """The three keys of the API, and a notice where the model needs one; answered while the
    weights load, too."""
    info = {
        "model_name": processor.card.served_name,
        "model_type": "chat-completions",
        "model_provider_name": processor.card.provider,
    }
    if processor.card.notice is not None:
        info["notice"] = processor.card.notice
    return AsciiJSONResponse(info)
