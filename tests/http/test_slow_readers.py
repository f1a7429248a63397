"""Clients that read slowly, or not at all: what waits for them is little, and not for ever."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scoring.sequence import FinishReason
from server.completion import Delta
from server.errors import TimedOutError
from server.unread_deltas import MAX_UNREAD_BYTES, merge_unread

from .event_streams import EventStream, stream
from .parrot import Parrot, ParrotServer, parrot_server
from .raw_http import connect_with_small_buffer, hang_up_hard
from .running_server import assert_well, user, wait_until

STALL_S = 1.0
# Slower than a busy machine makes them.
BYTES_PER_S = 100_000
# Its events have more bytes than all buffers on the way.
TEXT = "".join(chr(ord("a") + number % 26) for number in range(4000))


@pytest.fixture(scope="module")
def server(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    parrot = Parrot(demo_checkpoint)
    with parrot_server(
        demo_checkpoint, parrot, max_model_len=10_000, max_stall_s=STALL_S, drain_s=0
    ) as server:
        yield server


@contextmanager
def asked(server: ParrotServer, text: str) -> Iterator[socket.socket]:
    """A connection with little room, on which a stream has been asked for."""
    body = json.dumps({"messages": [user(text)], "stream": True, "max_tokens": 5000}).encode()
    head = (
        "POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with connect_with_small_buffer(server) as connection:
        connection.sendall(head.encode() + body)
        yield connection


def read_until_cut(connection: socket.socket) -> bytes:
    """What is still there; the connection must then break."""
    rest = b""
    try:
        while piece := connection.recv(65536):
            rest += piece
    except ConnectionResetError:
        return rest
    raise AssertionError("the connection ended in good order")


def body_of(received: bytes) -> bytes:
    """The body of a chunked answer that is whole."""
    _, _, chunked = received.partition(b"\r\n\r\n")
    body = b""
    while True:
        size, _, rest = chunked.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return body
        body, chunked = body + rest[:length], rest[length + 2 :]


def test_who_reads_slowly_gets_all_of_it_in_fewer_events(server: ParrotServer) -> None:
    """The reading takes longer than a client may read nothing."""
    received = b""
    with asked(server, TEXT) as connection:
        start = time.monotonic()
        while piece := connection.recv(1 << 13):
            received += piece
            time.sleep(max(0.0, start + len(received) / BYTES_PER_S - time.monotonic()))
    assert time.monotonic() - start > STALL_S
    answer = EventStream(body_of(received))
    assert answer.text == TEXT
    assert answer.finish_reason == "stop"
    assert answer.usage["completion_tokens"] == len(TEXT) + 1
    assert len(answer.chunks) < len(TEXT)
    assert max(len(delta["content"]) for delta in answer.deltas) > 100
    assert_well(server)


def test_who_reads_nothing_is_cut_off_and_the_request_ended(
    server: ParrotServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Others' answers go on meanwhile."""
    before = server.parrot.num_steps
    server.parrot.step_s = 0.001
    with asked(server, TEXT) as connection:
        assert connection.recv(4) == b"HTTP"
        wait_until(lambda: not server.is_idle(), 10, "it is being answered")
        num_heard = 0
        while not server.is_idle():
            assert stream(server, "others").text == "others"
            num_heard += 1
            assert num_heard < 1000
        server.parrot.step_s = 0.0
        assert b"[DONE]" not in read_until_cut(connection)
    num_steps = server.parrot.num_steps - before
    assert num_steps < len(TEXT)  # it was not computed to its end
    assert "a client read nothing for 1 s" in caplog.text
    assert_well(server)


def test_any_answer_that_is_not_read_is_given_up(server: ParrotServer) -> None:
    """Many of a document, asked for on one connection, fill its buffers."""
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect_with_small_buffer(server) as connection:
        connection.sendall(request * 40)
        time.sleep(2 * STALL_S)
        read_until_cut(connection)
    assert_well(server)


def test_who_hangs_up_while_its_answer_waits_leaves_nothing(server: ParrotServer) -> None:
    server.parrot.step_s = 0.001
    with asked(server, TEXT) as connection:
        wait_until(lambda: not server.is_idle(), 10, "it is being answered")
        time.sleep(STALL_S / 4)
        hang_up_hard(connection)
    wait_until(server.is_idle, 5, "it has been given up")
    server.parrot.step_s = 0.0
    assert_well(server)


# The merging by itself


class Source:
    """Deltas from a list, and whether it was closed."""

    def __init__(self, deltas: list[Delta], error: Exception | None = None) -> None:
        self._deltas, self._error = deltas, error
        self.is_closed = False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        try:
            for delta in self._deltas:
                yield delta
                await asyncio.sleep(0)
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True


def token(text: str, alternatives: int = 0) -> dict[str, Any]:
    alternative = {"token": " some", "logprob": -12.345678901, "bytes": [32, 115, 111, 109, 101]}
    return {"token": text, "top_logprobs": [alternative] * alternatives}


def read_slowly(source: Source) -> list[Delta]:
    async def read() -> list[Delta]:
        taken = []
        async for delta in merge_unread(source.deltas()):
            taken.append(delta)
            await asyncio.sleep(0.01)
        return taken

    return asyncio.run(read())


def test_what_nobody_has_taken_is_one_delta() -> None:
    deltas = [Delta(letter, [token(letter)], None) for letter in "abcd"]
    first, second = read_slowly(Source([*deltas, Delta("", None, FinishReason.STOP)]))
    assert first == deltas[0]
    assert second == Delta("bcd", [token(letter) for letter in "bcd"], FinishReason.STOP)


def test_a_failure_comes_after_what_came_before() -> None:
    texts = []

    async def read(source: Source) -> None:
        async for delta in merge_unread(source.deltas()):
            texts.append(delta.text)
            await asyncio.sleep(0.01)

    source = Source([Delta("a", None, None), Delta("b", None, None)], ValueError("bad luck"))
    with pytest.raises(ValueError, match="bad luck"):
        asyncio.run(read(source))
    assert texts == ["a", "b"]
    assert source.is_closed


@pytest.mark.parametrize(
    "delta",
    [Delta("x" * 1000, None, None), Delta("x", [token("x", 20)], None)],
    ids=["text", "logprobs"],
)
def test_more_than_may_wait_ends_the_request_though_nobody_reads(delta: Delta) -> None:
    source, taken = Source([delta] * 5000), []

    async def read() -> None:
        deltas = merge_unread(source.deltas())
        await anext(deltas)
        for _ in range(5000):
            if source.is_closed:
                break
            await asyncio.sleep(0.001)
        assert source.is_closed
        async for merged in deltas:
            taken.append(json.dumps([merged.text, merged.logprobs]))

    with pytest.raises(TimedOutError, match="read too slowly"):
        asyncio.run(read())
    assert MAX_UNREAD_BYTES / 4 < len("".join(taken)) < 2 * MAX_UNREAD_BYTES


def test_closing_it_closes_what_it_reads() -> None:
    async def read() -> bool:
        source = Source([Delta("a", None, None)] * 1000)
        deltas = merge_unread(source.deltas())
        await anext(deltas)
        await deltas.aclose()
        return source.is_closed

    assert asyncio.run(read())
