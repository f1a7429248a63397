"""A chat server on a real socket that answers byte for byte as a test says, and when.

A script is a list of steps for one request: bytes are sent, a float is a pause in seconds, and
HANG_UP ends the connection. Without HANG_UP the connection waits for another request.
"""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
HANG_UP = None
Step = bytes | float | None
Script = list[Step]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(content: str = "", **fields: Any) -> bytes:
    """A chunk of a chat completion with one delta, as an event in a chunk of the body."""
    finish_reason = fields.pop("finish_reason", None)
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return chunk(b"data: " + json.dumps({"choices": [choice], **fields}).encode() + b"\n\n")


def done(num_tokens: int | None = None, finish_reason: str = "stop") -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": num_tokens} if num_tokens else None
    return event(finish_reason=finish_reason, usage=usage) + chunk(b"data: [DONE]\n\n") + END


def answer(num_tokens: int, gap_s: float = 0.0, first_s: float = 0.0) -> Script:
    """So many tokens, the first after first_s and then one every gap_s."""
    script: Script = [HEAD, first_s]
    for number in range(num_tokens):
        script += [gap_s, event(f"t{number} ")] if number else [event("t0 ")]
    return [*script, done(num_tokens)]


def whole(status: str, body: bytes, *headers: str) -> Script:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return ["\r\n".join(lines).encode() + body]


class ScriptedServer:
    """url: of its root. bodies, heads: of the requests so far, in the order of their coming, and
    arrivals the times. num_connections: opened so far. max_running: most requests at a time."""

    def __init__(self, script: Callable[[dict[str, Any]], Script]) -> None:
        self.url = ""
        self.heads: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.arrivals: list[float] = []
        self.num_connections = 0
        self.max_running = 0
        self._num_running = 0
        self._script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while await self._answer_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.transport.abort()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        body = json.loads(await reader.readexactly(int(fields.get("content-length", 0))) or b"{}")
        self.heads.append(head)
        self.bodies.append(body)
        self.arrivals.append(time.perf_counter())
        self._num_running += 1
        self.max_running = max(self.max_running, self._num_running)
        try:
            for step in self._script(body):
                if step is HANG_UP:
                    return False
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    writer.write(step)
                    await writer.drain()
            return True
        finally:
            self._num_running -= 1


@contextmanager
def scripted_server(
    script: Callable[[dict[str, Any]], Script], tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedServer]:
    """In a thread of its own, on a loopback port."""
    server = ScriptedServer(script)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()

    async def run() -> None:
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
        port = listener.sockets[0].getsockname()[1]
        server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        ready.set()
        await stop.wait()
        listener.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=[run()])
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
