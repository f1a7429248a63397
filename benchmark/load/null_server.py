"""A server that answers at once: as many tokens as it is told, one event each, every open stream's
next one in turn, as an engine's steps send them. What a load generator reaches here is its limit.

    python -m benchmark.load.null_server --tokens 64

It listens on a free loopback port, and prints its address.
"""

import argparse
import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from ..child_module import child_environment, child_module

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_END = b"0\r\n\r\n"


class NullServerError(Exception):
    """There is none to measure against."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64, help="of every answer")
    asyncio.run(_serve(parser.parse_args().tokens))


@contextmanager
def null_server(num_tokens: int) -> Iterator[str]:
    """One in a process of its own: its address. Raises NullServerError if it has none."""
    command = child_module(__name__, "--tokens", str(num_tokens))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=child_environment()
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url.startswith("http://"):
                raise NullServerError("the server that answers at once did not start")
            yield url
        finally:
            process.terminate()


async def _serve(num_tokens: int) -> None:
    streams = _Streams(num_tokens)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(streams), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)
    await streams.run()


class _Streams:
    """All open answers, stepped together."""

    def __init__(self, num_tokens: int) -> None:
        self._token = _chunk(_event({"content": " word"}))
        usage = {"prompt_tokens": 1, "completion_tokens": num_tokens, "total_tokens": 1}
        self._last = (
            _chunk(_event({}, finish_reason="length", usage=usage))
            + _chunk(b"data: [DONE]\n\n")
            + _END
        )
        self._num_tokens = num_tokens
        self._open: dict[asyncio.Transport, int] = {}
        self._has_work = asyncio.Event()

    def start(self, transport: asyncio.Transport) -> None:
        self._open[transport] = self._num_tokens
        transport.write(_HEAD)
        self._has_work.set()

    async def run(self) -> None:
        while True:
            await self._has_work.wait()
            for transport, num_left in list(self._open.items()):
                transport.write(self._token if num_left else self._last)
                if num_left and not transport.is_closing():
                    self._open[transport] = num_left - 1
                else:
                    del self._open[transport]
            if not self._open:
                self._has_work.clear()
            await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """Counts a request's bytes, and reads none but the head."""

    def __init__(self, streams: _Streams) -> None:
        self._streams = streams
        self._head = b""
        self._num_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._num_left:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            found = _LENGTH.search(head)
            self._num_left = int(found[1]) if found else 0
            data = body
        self._num_left -= len(data)
        if not self._num_left:
            self._streams.start(self._transport)


def _event(
    delta: dict[str, str],
    finish_reason: str | None = None,
    usage: dict[str, int] | None = None,
) -> bytes:
    event = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "null",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}],
        "usage": usage,
    }
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


if __name__ == "__main__":
    main()
