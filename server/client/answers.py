"""A server's answers: what is wrong with one, in a sentence, and when to come back."""

import email.utils
import time
from datetime import UTC
from typing import Any

import httpx

from .errors import AnswerError, ClientError, NoServerError, RightsError

_MAX_SHOWN = 500


def to_error(response: httpx.Response) -> AnswerError:
    """What a response that is no success tells the user. Its body must have been read."""
    status = response.status_code
    sentence = f"{status} {message_of(_json(response)) or response.reason_phrase}"
    wait_s = retry_after_s(response)
    if wait_s is not None and "; try again in " not in sentence:
        sentence += f"; try again in {wait_s:.0f} s"
    return (RightsError if status in (401, 403) else AnswerError)(sentence)


def message_of(body: Any) -> str | None:
    """The message of an error body: OpenAI's and Azure's nested form, or a flat one."""
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    found = error.get("message") if isinstance(error, dict) else error or body.get("message")
    return str(found)[:_MAX_SHOWN] if found else None


def retry_after_s(response: httpx.Response) -> float | None:
    """Retry-After, which is seconds or a date; None where it is neither."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time(), 0.0)


def to_client_error(error: httpx.HTTPError, url: str) -> ClientError:
    """What a failed connection tells the user."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return NoServerError(f"no server answers at {url}: {error or 'it takes too long'}")
    if isinstance(error, httpx.ReadTimeout):
        return AnswerError("the server has said nothing for too long")
    return AnswerError(f"the connection broke: {error or type(error).__name__}")


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
