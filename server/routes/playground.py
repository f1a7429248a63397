"""The playground: a page to try the model on, and what it must know of it."""

from fastapi import APIRouter
from starlette.responses import Response

from ..errors import NotFoundError
from ..json_response import AsciiJSONResponse
from ..playground_files import FILES, PAGE, PAGE_PATH, PlaygroundFile
from .deps import EngineDep, ProcessorDep

router = APIRouter(include_in_schema=False)

# Nothing is loaded from elsewhere, and nothing that a model writes can run.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@router.get(PAGE_PATH)
async def page() -> Response:
    return _response(PAGE)


@router.get(PAGE_PATH + "/model")
async def model(engine: EngineDep, processor: ProcessorDep) -> Response:
    """The model's name and rules. context_length is null while the weights load."""
    card, vision = processor.card, processor.prompts.vision
    return AsciiJSONResponse(
        {
            "model_name": card.served_name,
            "notice": card.notice,
            "context_length": engine.limits.max_model_len if engine.limits else None,
            "temperature": card.temperature,
            "top_p": card.top_p,
            "max_tokens": card.max_tokens,
            "images": {
                "kept": card.images_kept,
                "crop_size": vision.crop_size,
                "num_crops": vision.num_crops,
                "tokens_per_side": vision.tokens_per_side,
            },
        }
    )


@router.get(PAGE_PATH + "/{name}")
async def asset(name: str) -> Response:
    if name not in FILES:
        raise NotFoundError("the playground has no such file")
    return _response(FILES[name])


def _response(file: PlaygroundFile) -> Response:
    return Response(file.content, media_type=file.media_type, headers=_HEADERS)
