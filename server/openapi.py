"""What the OpenAPI document says of answers: their shapes, and every error with its reasons.

The answers are built elsewhere, key by key; a test holds them to these shapes.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Responses = dict[int | str, dict[str, Any]]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(_Answer):
    code: str
    message: str
    target: str | None


class ErrorObject(_Answer):
    code: str
    message: str
    status: int
    target: str | None
    param: str | None
    type: Literal["invalid_request_error", "server_error"]
    details: list[ErrorDetail]


class Offence(_Answer):
    loc: list[str]
    input: Any
    value: Any
    msg: str
    type: str


class ErrorBody(_Answer):
    """One body for every error: Azure's and OpenAI's `error`, and beside it the fields that the
    samples of the API's reference read."""

    error: ErrorObject
    status: int
    code: str
    message: str
    detail: list[Offence] = Field(description="What is wrong, and where; may be empty.")


class Info(_Answer):
    model_name: str
    model_type: Literal["chat-completions"]
    model_provider_name: str
    notice: str = Field("", description="There only where the model is a demo.")


class TokenLogprob(_Answer):
    token: str
    logprob: float
    bytes: list[int]


class SampledTokenLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChoiceLogprobs(_Answer):
    content: list[SampledTokenLogprob]


class PromptTokensDetails(_Answer):
    cached_tokens: int
    image_tokens: int


class Usage(_Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class AnswerMessage(_Answer):
    role: Literal["assistant"]
    content: str
    tool_calls: None


class Choice(_Answer):
    index: Literal[0]
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChoiceLogprobs | None


class ChatCompletion(_Answer):
    id: str = Field(pattern="^[0-9a-f]{32}$")
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice] = Field(min_length=1, max_length=1)
    usage: Usage


class TaskAnswer(_Answer):
    output: str


class ModelObject(_Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Answer):
    object: Literal["list"]
    data: list[ModelObject]


_STREAM = (
    "With `stream`: `data: ` + a chunk as JSON for each event, ended by `data: [DONE]`. An error "
    "that comes after the first byte is an event with `error` and no choice, and then the "
    "connection is closed without a clean end."
)
# A code for each, and when it comes. What the framework and the connection itself refuse is among
# them.
_REASONS = {
    400: "`unknown_parameter`, `context_length_exceeded`, `invalid_header`, `invalid_request`",
    401: "`unauthorized`: the key is missing or wrong",
    404: "`not_found`",
    408: "`request_timeout`: the request came too slowly",
    413: "`body_too_large`",
    415: "`unsupported_media_type`: the body must be uncompressed `application/json`",
    422: "`invalid_parameter`: a wrong type or value, an unreadable picture, a body that is no "
    "JSON; or `parameter_not_supported`: known, but not by this model",
    424: "`generation_failed`: the model failed on this request alone; trying again is of no use",
    429: "`too_many_requests`: too many are waiting",
    431: "`headers_too_large`: of the headers together, their number, or a request id",
    500: "`internal_error`: a bug; the log knows more, under the request's id",
    503: "`not_ready`, with `Retry-After`: the weights are loading, the server is leaving, or one "
    "of several engines died with the request; or `engine_dead`",
}
_RETRY_AFTER = {"schema": {"type": "integer"}, "description": "Seconds to wait."}
_ERROR_CODE = {"schema": {"type": "string"}, "description": "The error's code."}


def _errors(*statuses: int) -> _Responses:
    errors: _Responses = {}
    for status in sorted(statuses):
        headers = {"x-ms-error-code": _ERROR_CODE}
        if status in (429, 503):
            headers["Retry-After"] = _RETRY_AFTER
        errors[status] = {
            "model": ErrorBody,
            "description": _REASONS[status],
            "headers": headers,
        }
    return errors


_ANY_ROUTE = (400, 401, 431, 500)
_CHAT_ROUTE = (*_ANY_ROUTE, 408, 413, 415, 422, 424, 429, 503)


def answers(model: type[BaseModel], *errors: int) -> _Responses:
    """The responses of a route without a body."""
    return {200: {"model": model, "description": ""}, **_errors(*_ANY_ROUTE, *errors)}


def chat_answers(model: Any = ChatCompletion) -> _Responses:
    """The responses of a route that takes a chat."""
    # No type: some readers check the whole body against it, others each event as an object.
    stream = {"text/event-stream": {"schema": {"description": _STREAM}}}
    answer = {"model": model, "description": "The answer.", "content": stream}
    return {200: answer, **_errors(*_CHAT_ROUTE)}


def _parameter(where: str, name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"in": where, "name": name, "schema": schema, "description": description}


API_VERSION = _parameter("query", "api-version", {"type": "string"}, "Any, or none.")
EXTRA_PARAMETERS_HEADER = _parameter(
    "header",
    "extra-parameters",
    {"enum": ["error", "drop", "pass-through"], "default": "error"},
    "What happens to parameters beyond the API's table: they are refused, dropped, or used.",
)
