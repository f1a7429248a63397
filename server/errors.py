"""One error body, and the one table from exception classes to statuses.

APIError                     a request that is refused here, with its status
├── InvalidRequestError      422: a value is wrong
├── NotSupportedError        422 `parameter_not_supported`: known, but not by this model
├── ImageUrlNotAllowedError  422: this server does not fetch such a URL, or none
├── ImageFetchError          422: it tried, and there was no picture
├── UnknownParameterError    400: not in the API, and extra-parameters does not let it through
├── NotFoundError            404: a model that is not there
├── TooLargeError            413: more than is decoded or tokenized
├── TimedOutError            408: it came too slowly, or not a token was there in time
├── UnauthorizedError        401
├── ForbiddenError           403
├── UnavailableError         503: something that is needed here is out of reach
├── RateLimitError           429: more than the caller's share, or than can be fetched
├── HeadersTooLargeError     431: of all headers, or of one that has a limit of its own
└── BadHeaderError           400: a header, or a whole head, that is not what it must be

The scoring package's errors are in `_STATUS` too; whatever is not becomes a 500 that says nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from scoring.errors import (
    ContextLengthError,
    EngineDeadError,
    EngineNotReadyError,
    EngineOverloadedError,
    GenerationError,
    InvalidSequenceError,
    ScoringError,
)

from .json_response import AsciiJSONResponse
from .missing_routes import missing_route
from .schemas import SCORE_TAGS

_MAX_SHOWN_VALUE, _MAX_PROBLEMS = 64, 8


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. loc: its place in the request, outermost first, or nothing."""

    message: str
    loc: tuple[str, ...] = ()
    value: Any = None


class APIError(Exception):
    """A refused request. loc: where in the request, outermost first; value: what stood there."""

    status = 400
    code = "invalid_request"

    def __init__(self, message: str, loc: tuple[str, ...] = (), value: Any = None) -> None:
        super().__init__(message)
        self.headers: dict[str, str] = {}
        self.problem = Problem(message, loc, value)


class InvalidRequestError(APIError):
    """A field has a wrong type or a value out of its range."""

    status, code = 422, "invalid_parameter"


class NotSupportedError(APIError):
    """The API knows it, this model does not."""

    status, code = 422, "parameter_not_supported"


class ImageUrlNotAllowedError(APIError):
    """An image's URL that the server is not started to fetch, or that it does not trust."""

    status, code = 422, "image_url_not_allowed"


class ImageFetchError(APIError):
    """There is no picture at an image's URL, for whatever reason."""

    status, code = 422, "image_fetch_failed"


class UnknownParameterError(APIError):
    """A parameter that the API does not name, or a bad extra-parameters header."""

    status, code = 400, "unknown_parameter"


class NotFoundError(APIError):
    """What the path names is not there."""

    status, code = 404, "not_found"


class TooLargeError(APIError):
    """A picture or a text is larger than this server takes."""

    status, code = 413, "body_too_large"


class UnauthorizedError(APIError):
    """No key or token, or a wrong one. challenge: the value of WWW-Authenticate."""

    status, code = 401, "unauthorized"

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.headers = {"WWW-Authenticate": challenge}


class ForbiddenError(APIError):
    """Who calls, or from where, is known and not enough."""

    status, code = 403, "forbidden"


class UnavailableError(APIError):
    """Nothing is wrong with the request, and trying again may help."""

    status, code = 503, "not_ready"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": "5"}


class RateLimitError(APIError):
    """Too much at once. retry_after_s: when trying again will help."""

    status, code = 429, "too_many_requests"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after_s)}


class TimedOutError(APIError):
    """The request took too long to arrive."""

    status, code = 408, "request_timeout"


class HeadersTooLargeError(APIError):
    """The headers are too many or too long."""

    status, code = 431, "headers_too_large"


class BadHeaderError(APIError):
    """A header has characters that it must not have, or the head is no HTTP."""

    status, code = 400, "invalid_header"


@dataclass(frozen=True)
class Answer:
    """How an error goes out."""

    status: int
    code: str
    headers: dict[str, str] = field(default_factory=dict)


# Deterministic failures must not be 5xx: every SDK sends such a request again, up to four times.
# Retry-After stands only where trying again can help; with it Python retries any status.
_STATUS: dict[type[Exception], Answer] = {
    InvalidSequenceError: Answer(422, "invalid_parameter"),
    ContextLengthError: Answer(400, "context_length_exceeded"),
    GenerationError: Answer(424, "generation_failed"),
    EngineOverloadedError: Answer(429, "too_many_requests", {"Retry-After": "1"}),
    EngineNotReadyError: Answer(503, "not_ready", {"Retry-After": "5"}),
    EngineDeadError: Answer(503, "engine_dead"),
    ScoringError: Answer(500, "internal_error"),
}
_HTTP = {
    405: ("method_not_allowed", "the route does not take this method"),
    408: (TimedOutError.code, "the request took too long to arrive"),
    413: ("body_too_large", "the body is larger than this server takes"),
    415: (
        "unsupported_media_type",
        "the body must be JSON in UTF-8 with Content-Type: application/json, and not compressed",
    ),
}


def error_body(status: int, code: str, problems: Sequence[Problem]) -> dict[str, Any]:
    """The body that every client can read: Azure's `error` object and, for the documentation's
    samples, the flat fields beside it with `detail` as a list. (The two published forms contradict
    each other; this one satisfies both.) The first problem gives the message."""
    message = problems[0].message
    param = ".".join(part for part in problems[0].loc if part != "body") or None
    detail = [
        {
            "loc": list(problem.loc),
            "input": _shown(problem.value),
            "value": _shown(problem.value),
            "msg": problem.message,
            "type": code,
        }
        for problem in problems
        if problem.loc
    ]
    return {
        "error": {
            "code": code,
            "message": message,
            "status": status,
            "target": param,
            "param": param,
            "type": "invalid_request_error" if status < 500 else "server_error",
            "details": [{"code": code, "message": message, "target": param}],
        },
        "status": status,
        "code": code,
        "message": message,
        "detail": detail,
    }


def _shown(value: Any) -> Any:
    """What of a value may be repeated: numbers and short text, never a picture or a prompt."""
    if isinstance(value, int | float):
        # JSON has no NaN or Infinity, and an integer can have thousands of digits.
        fits = abs(value) < 2**64  # false for NaN, too
        return value if fits else "(a number out of all range)"
    if value is None or (isinstance(value, str) and len(value) <= _MAX_SHOWN_VALUE):
        return value
    return f"({type(value).__name__})"


def error_answer(error: Exception) -> tuple[Answer, dict[str, Any]]:
    """The status, headers and body of any exception, looked up along its classes."""
    if isinstance(error, APIError):
        answer, problem = Answer(error.status, error.code, error.headers), error.problem
    else:
        known = (_STATUS[base] for base in type(error).__mro__ if base in _STATUS)
        answer = next(known, Answer(500, "internal_error"))
        told = isinstance(error, ScoringError)
        problem = Problem(str(error) if told else "the server failed unexpectedly")
    return answer, error_body(answer.status, answer.code, [problem])


def error_response(answer: Answer, body: dict[str, Any]) -> AsciiJSONResponse:
    headers = {"x-ms-error-code": answer.code, **answer.headers}
    return AsciiJSONResponse(body, status_code=answer.status, headers=headers)


async def on_error(_: Request, error: Exception) -> Response:
    """Our own exceptions, and the unexpected ones, whose text stays here."""
    return error_response(*error_answer(error))


async def on_validation_error(_: Request, error: Exception) -> Response:
    """pydantic's findings, each with its place."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()[:_MAX_PROBLEMS]
    kind = UnknownParameterError if found[0]["type"] == "extra_forbidden" else InvalidRequestError
    answer = Answer(kind.status, kind.code)
    problems = [_problem(one) for one in found]
    return error_response(answer, error_body(answer.status, answer.code, problems))


def _problem(found: dict[str, Any]) -> Problem:
    if found["type"] == "json_invalid":
        return Problem(f"the body is not valid JSON: {found['ctx']['error']}", ("body",))
    parts = [part for part in found["loc"] if part not in SCORE_TAGS]
    loc = tuple(str(part)[:_MAX_SHOWN_VALUE] for part in parts)  # a key can be anything
    where = ".".join(part for part in loc if part != "body") or "the body"
    value = found.get("input")
    given = f"; given: {_shown(value)!r}" if isinstance(value, bool | int | float | str) else ""
    return Problem(f"{where}: {found['msg'].removeprefix('Value error, ')}{given}", loc, value)


async def on_http_error(request: Request, error: Exception) -> Response:
    """The framework's own, and those of our middleware."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        code, message = NotFoundError.code, missing_route(request.app, request.scope["path"])
    else:
        code, message = _HTTP.get(error.status_code, ("invalid_request", str(error.detail)))
        if error.detail != HTTPStatus(error.status_code).phrase:  # somebody said more
            message = str(error.detail)
    answer = Answer(error.status_code, code, dict(error.headers or {}))
    return error_response(answer, error_body(answer.status, code, [Problem(message)]))
