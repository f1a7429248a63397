"""The API's description, under the names that FastAPI and Azure ML's inference server give it."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..json_response import AsciiJSONResponse

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
@router.get("/swagger.json")
async def get_openapi(request: Request) -> Response:
    """OpenAPI 3.1, whatever `version` is asked for."""
    return AsciiJSONResponse(request.app.openapi())
