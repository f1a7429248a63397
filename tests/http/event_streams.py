"""Answers in pieces: how the bytes must look, and what they add up to."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from .running_server import Endpoint

WELL_FORMED = re.compile(rb"(data: \{[^\n]*\}\n\n)+data: \[DONE\]\n\n")


@dataclass(frozen=True)
class EventStream:
    """A finished stream."""

    raw: bytes

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The events' JSON, without [DONE]."""
        lines = [line for line in self.raw.decode("ascii").split("\n") if line]
        return [json.loads(line.removeprefix("data: ")) for line in lines if "[DONE]" not in line]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [chunk["choices"][0]["delta"] for chunk in self.chunks]

    @property
    def text(self) -> str:
        return "".join(delta["content"] for delta in self.deltas)

    @property
    def finish_reason(self) -> str:
        return str(self.chunks[-1]["choices"][0]["finish_reason"])

    @property
    def usage(self) -> dict[str, Any]:
        return dict(self.chunks[-1]["usage"])


class OpenStream:
    """A stream that is being read: its text so far, and whether [DONE] has come."""

    def __init__(self, response: httpx.Response) -> None:
        self.text = ""
        self.is_done = False
        # Kept, as httpx closes the connection when it is dropped.
        self.lines = response.iter_lines()

    def take(self, num_pieces: int) -> None:
        """Read until so many more events with text have come."""
        while num_pieces:
            num_pieces -= bool(self._read(next(self.lines)))

    def take_rest(self) -> None:
        for line in self.lines:
            self._read(line)

    def _read(self, line: str) -> str:
        self.is_done |= line == "data: [DONE]"
        if not line.startswith("data: {"):
            return ""
        piece = str(json.loads(line[6:])["choices"][0]["delta"]["content"])
        self.text += piece
        return piece


def is_broken_off(running: OpenStream) -> bool:
    """Read a stream to its end, which is [DONE], or an error event and a connection that breaks."""
    last: dict[str, Any] = {}
    try:
        for line in running.lines:
            running.is_done |= line == "data: [DONE]"
            if line.startswith("data: {"):
                last = json.loads(line[6:])
    except httpx.RemoteProtocolError:
        assert not running.is_done
        assert last["error"]["code"]
        return True
    assert running.is_done
    return False


def stream(
    server: Endpoint, content: Any, headers: dict[str, str] | None = None, **parameters: Any
) -> EventStream:
    """Ask as `Endpoint.ask` does, streamed, and read to the end. The request must succeed."""
    with _response(server, content, headers, parameters) as response:
        finished = EventStream(response.read())
    assert WELL_FORMED.fullmatch(finished.raw), finished.raw
    return finished


@contextmanager
def opened(server: Endpoint, content: Any, **parameters: Any) -> Iterator[OpenStream]:
    """A stream whose head has come. Leaving the block hangs up."""
    with _response(server, content, None, parameters) as response:
        yield OpenStream(response)


@contextmanager
def _response(
    server: Endpoint, content: Any, headers: dict[str, str] | None, parameters: dict[str, Any]
) -> Iterator[httpx.Response]:
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "stream": True}
    with (
        server.client() as client,
        client.stream(
            "POST", "/chat/completions", json=body | parameters, headers=headers
        ) as response,
    ):
        if response.status_code != 200:
            raise AssertionError(response.read())
        yield response
