"""Lines of a batch's input: OpenAI's `{"custom_id", "method", "url", "body"}`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..json_body import decode

# What a body may ask for: the chat routes, as OpenAI's and Azure's batches name them.
URLS = ("/v1/chat/completions", "/chat/completions")
# A picture of the largest size that a server takes by default, twice over.
MAX_LINE_BYTES = 64 << 20
_MAX_ID_LENGTH = 512
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Place:
    """Where a line stands. number: counted from 1; file: where the input has several."""

    number: int
    file: str | None = None

    def __str__(self) -> str:
        return f"line {self.number}" + (f" of {self.file}" if self.file else "")


@dataclass(frozen=True)
class BatchRequest:
    """A line that can be sent. num_bytes: of the line."""

    place: Place
    num_bytes: int
    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class BadLine:
    """A line that cannot. custom_id: where the line has one, and no line before it."""

    place: Place
    num_bytes: int
    custom_id: str | None
    message: str


@dataclass(frozen=True)
class AnsweredLine:
    """A line whose answer is in the output already."""

    num_bytes: int


def split_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line with its size in bytes, line break included. Of a line that is longer than
    MAX_LINE_BYTES only the beginning: never more than that is held."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        num_bytes = len(line)
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
            num_bytes += len(rest)
        yield line, num_bytes


def parse_line(line: bytes, place: Place, num_bytes: int) -> BatchRequest | BadLine:
    """What a line asks for, or what is wrong with it."""
    if num_bytes > MAX_LINE_BYTES:
        return BadLine(
            place,
            num_bytes,
            None,
            f"it has {num_bytes / 2**20:.0f} MiB; {MAX_LINE_BYTES >> 20} are allowed",
        )
    try:
        value = decode(line.removeprefix(_BYTE_ORDER_MARK) if place.number == 1 else line)
    except json.JSONDecodeError as error:
        return BadLine(place, num_bytes, None, f"it is not JSON: {error.msg}")
    if not isinstance(value, dict):
        return BadLine(place, num_bytes, None, "it is no JSON object")
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_ID_LENGTH:
        wanted = f"custom_id must be a text of 1 to {_MAX_ID_LENGTH} characters"
        return BadLine(place, num_bytes, None, wanted)
    wrong = _what_is_wrong(value)
    if wrong is not None:
        return BadLine(place, num_bytes, custom_id, wrong)
    return BatchRequest(place, num_bytes, custom_id, value["url"], value["body"])


def _what_is_wrong(line: dict[str, Any]) -> str | None:
    if line.get("method") != "POST":
        return "method must be 'POST'"
    if line.get("url") not in URLS:
        return f"url must be one of {', '.join(URLS)}"
    body = line.get("body")
    if not isinstance(body, dict):
        return "body must be a JSON object"
    if body.get("stream"):
        return "body.stream must not be true in a batch"
    return None
