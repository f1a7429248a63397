"""Azure ML's POST /score, where `az ml online-endpoint invoke` sends whatever it is given."""

from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..answer import answer_chat, begin
from ..errors import APIError
from ..extra_parameters import apply_extra_parameters, extras_mode
from ..json_body import JSONBodyRoute
from ..json_response import AsciiJSONResponse
from ..openapi import (
    API_VERSION,
    EXTRA_PARAMETERS_HEADER,
    ChatCompletion,
    TaskAnswer,
    chat_answers,
)
from ..schemas import ScoreRequest, TaskRequest
from ..streaming import UsagePlace, unless_client_leaves, whole_completion
from .deps import EngineDep, ProcessorDep

router = APIRouter(route_class=JSONBodyRoute)


@router.post(
    "/score",
    responses=chat_answers(TaskAnswer | ChatCompletion),
    openapi_extra={"parameters": [API_VERSION, EXTRA_PARAMETERS_HEADER]},
)
async def score(
    body: ScoreRequest, request: Request, engine: EngineDep, processor: ProcessorDep
) -> Response:
    """Answer a chat request as /chat/completions does, or a task with its text alone."""
    if not isinstance(body, TaskRequest):
        chat = apply_extra_parameters(body, request.headers)
        return await answer_chat(chat, request, engine, processor, UsagePlace.LAST_CHUNK)
    extras_mode(request.headers)  # nothing in a task depends on it, but it must be right
    chat = body.to_chat_request()
    try:
        completion = await begin(chat, request, engine, processor)
    except APIError as error:
        error.problem = replace(error.problem, loc=_place_in_task(error.problem.loc))
        raise
    whole = await unless_client_leaves(request, whole_completion(completion, engine))
    return AsciiJSONResponse({"output": whole["choices"][0]["message"]["content"]})


def _place_in_task(loc: tuple[str, ...]) -> tuple[str, ...]:
    """Where in a task's body stands what the chat that was made of it has at loc."""
    match loc:
        case ("body", "messages", *rest):
            return ("body", "input_data", "input_string", *rest)
        case ("body", _, *_):
            return ("body", "input_data", "parameters", *loc[1:])
    return loc
