"""One streamed chat completion over plain HTTP/1.1, with the time of every piece of text.

On bare sockets: the load generator shares the processor with the server that it measures.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Endpoint:
    """Where to post chat completions, and what goes along with every request.

    url: scheme and address, http only. path: may hold a query. model: None to send none.
    extra_body: more fields of the request's body.
    """

    url: str
    path: str
    model: str | None = None
    api_key: str | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)


@dataclass
class Answer:
    """One request's outcome. times: when each piece of text came, in seconds of perf_counter.

    num_tokens: what the server's usage says; else what was asked for, if the answer stopped for
    its length; else one per piece. num_prompt_tokens: 0 where the server does not say.
    """

    start: float
    end: float = 0.0
    times: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    error: str | None = None

    @property
    def ttft_s(self) -> float:
        return self.times[0] - self.start

    @property
    def gaps_s(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


async def ask(endpoint: Endpoint, prompt: str, max_tokens: int, timeout_s: float) -> Answer:
    """Post one prompt and read its stream to the end. Errors are in the answer, never raised."""
    answer = Answer(time.perf_counter())
    try:
        async with asyncio.timeout(timeout_s):
            await _stream(endpoint, prompt, max_tokens, answer)
    except TimeoutError:
        answer.error = f"no end after {timeout_s:.0f} s"
    except (OSError, ValueError, EOFError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.end = time.perf_counter()
    if answer.error is None and not answer.times:
        answer.error = "the answer holds no text"
    return answer


async def _stream(endpoint: Endpoint, prompt: str, max_tokens: int, answer: Answer) -> None:
    address = urlsplit(endpoint.url)
    if address.scheme != "http" or address.hostname is None:
        raise ValueError(f"{endpoint.url} is not an address of the form http://host:port")
    reader, writer = await asyncio.open_connection(
        address.hostname, address.port or 80, limit=_MAX_LINE_BYTES
    )
    try:
        writer.write(_request(endpoint, address.netloc, prompt, max_tokens))
        await writer.drain()
        status, is_chunked = await _head(reader)
        body = _chunks(reader) if is_chunked else _rest(reader)
        if status != 200:
            text = b"".join([piece async for piece in body]).decode(errors="replace")
            answer.error = f"status {status}: {text[:200]}"
            return
        async for event in _events(body):
            _enter(event, max_tokens, answer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _request(endpoint: Endpoint, host: str, prompt: str, max_tokens: int) -> bytes:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
    if endpoint.model is not None:
        body["model"] = endpoint.model
    payload = json.dumps(body | endpoint.extra_body).encode()
    lines = [
        f"POST {endpoint.path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        f"Content-Length: {len(payload)}",
        "Connection: close",
    ]
    if endpoint.api_key is not None:
        # The first is OpenAI's way, the second Azure's.
        lines += [f"Authorization: Bearer {endpoint.api_key}", f"api-key: {endpoint.api_key}"]
    return "\r\n".join([*lines, "", ""]).encode() + payload


async def _head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """→ the status, and whether the body comes in chunks."""
    words = (await reader.readline()).split()
    if len(words) < 2 or not words[1].isdigit():
        raise ValueError("the server's answer is not HTTP")
    is_chunked = False
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() == "transfer-encoding" and value.strip().lower() == "chunked":
            is_chunked = True
    return int(words[1]), is_chunked


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _rest(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(1 << 16):
        yield piece


async def _events(body: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to [DONE]."""
    pending = b""
    async for piece in body:
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                event: dict[str, Any] = json.loads(data)
                yield event


def _enter(event: dict[str, Any], max_tokens: int, answer: Answer) -> None:
    """Note an event's text, end and usage."""
    if event.get("error"):
        answer.error = f"in the stream: {str(event['error'])[:200]}"
        return
    for choice in event.get("choices") or []:
        if (choice.get("delta") or {}).get("content"):
            answer.times.append(time.perf_counter())
            answer.num_tokens += 1
        if choice.get("finish_reason") == "length":
            answer.num_tokens = max_tokens
    usage = event.get("usage") or {}
    if usage.get("completion_tokens"):
        answer.num_tokens = usage["completion_tokens"]
        answer.num_prompt_tokens = usage.get("prompt_tokens", 0)
