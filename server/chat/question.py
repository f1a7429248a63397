"""One question to the server and its streamed answer, with the times that matter."""

import json
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

from ..client.answers import message_of, to_client_error, to_error
from ..client.endpoint import Endpoint
from ..client.errors import AnswerError, ClientError


def response_format(schema_file: Path) -> dict[str, Any]:
    """What asks for JSON by the schema in a file. Raises ClientError."""
    try:
        schema = json.loads(schema_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClientError(f"--json-schema {schema_file} cannot be read: {error}") from error
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


class Question:
    """Sent when the first piece of its answer is asked for. Closing the pieces hangs up, which ends
    the answer on the server, too."""

    def __init__(
        self, endpoint: Endpoint, model: str, messages: list[Any], parameters: dict[str, Any]
    ) -> None:
        self._endpoint = endpoint
        self._body = {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in parameters.items() if value is not None},
        }
        self.finish_reason: str | None = None
        self.num_tokens: int | None = None
        self.time_to_first_token_s: float | None = None
        self._answering_s = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """After the first token, whose time is the prompt's."""
        if not self.num_tokens or self.num_tokens < 2 or self._answering_s <= 0:
            return None
        return (self.num_tokens - 1) / self._answering_s

    def pieces(self) -> Generator[str, None, None]:
        """Raises ClientError: AnswerError where the server refuses, fails or breaks off."""
        start = time.monotonic()
        try:
            with (
                self._endpoint.client() as client,
                client.stream("POST", "/v1/chat/completions", json=self._body) as response,
            ):
                if response.status_code != 200:
                    response.read()
                    raise to_error(response)
                for event in _events(response.iter_bytes()):
                    text = self._take(event)
                    if text:
                        now = time.monotonic()
                        if self.time_to_first_token_s is None:
                            self.time_to_first_token_s = now - start
                        self._answering_s = now - start - self.time_to_first_token_s
                        yield text
        except httpx.HTTPError as error:
            raise to_client_error(error, self._endpoint.url) from error
        if self.finish_reason is None:
            raise AnswerError("the server broke its answer off")

    def _take(self, event: dict[str, Any]) -> str:
        """An event's text; what else it tells is kept."""
        if "error" in event:
            raise AnswerError(message_of(event) or "the server failed")
        if usage := event.get("usage"):
            self.num_tokens = usage.get("completion_tokens")
        text = ""
        for choice in event.get("choices", []):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            text += choice.get("delta", {}).get("content") or ""
        return text


def _events(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON of server-sent events, until [DONE]. Raises AnswerError for anything else."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            try:
                event = json.loads(data)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise AnswerError("the server's stream is not what it must be")
            yield event
