"""Lines of a batch's output: OpenAI's `{"id", "custom_id", "response", "error"}`."""

import json
import uuid
from dataclasses import dataclass
from typing import Any

from ..json_response import to_ascii_json
from .lines import Place

# What every line begins with that is written here: a file's last line that begins otherwise is not
# one of ours that was cut off.
BEGINNING = b'{"id":"batch_req_'


@dataclass(frozen=True)
class BatchResult:
    """An answer of the server, with any status, or an error without one: exactly one of them."""

    custom_id: str | None
    response: dict[str, Any] | None
    error: dict[str, Any] | None

    @property
    def is_answer(self) -> bool:
        """Whether it is what the line asked for."""
        return self.response is not None and self.response["status_code"] == 200

    def to_line(self) -> bytes:
        """With its line break."""
        line = {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "custom_id": self.custom_id,
            "response": self.response,
            "error": self.error,
        }
        return to_ascii_json(line).encode("ascii") + b"\n"


def answer_of(custom_id: str, status_code: int, request_id: str, body: Any) -> BatchResult:
    response = {"status_code": status_code, "request_id": request_id, "body": body}
    return BatchResult(custom_id, response, None)


def error_of(custom_id: str | None, code: str, message: str, place: Place) -> BatchResult:
    """place: in the input; the message names it, too."""
    error = {"code": code, "message": f"{place}: {message}", "line": place.number}
    if place.file is not None:
        error["file"] = place.file
    return BatchResult(custom_id, None, error)


def parse_result(line: bytes) -> BatchResult:
    """Raises ValueError for what is no line of a batch's output."""
    value = json.loads(line)
    if not isinstance(value, dict) or not {"custom_id", "response", "error"} <= value.keys():
        raise ValueError("not a batch's result")
    response = value["response"]
    if response is not None and (
        not isinstance(response, dict) or not isinstance(response.get("status_code"), int)
    ):
        raise ValueError("not a batch's result")
    return BatchResult(value["custom_id"], response, value["error"])
