"""Answers in pieces: bytes that every SDK can read, adding up to the answer in one piece."""

import json
import re
import socket
from urllib.parse import urlsplit

import pytest

from .event_streams import WELL_FORMED, stream
from .parrot import ParrotServer
from .running_server import Endpoint, RunningServer, assert_well, counts, user

GREEDY = {"temperature": 0, "max_tokens": 60}
SEEDED = {"temperature": 1.0, "top_p": 0.9, "seed": 11, "max_tokens": 60}
CASES = [
    pytest.param("parrot", "Höflich: 日本語 😀 und e\u0301!", GREEDY, id="parrot"),
    pytest.param("demo", "How many languages are in the world?", GREEDY, id="demo-greedy"),
    pytest.param("demo", "How many languages are in the world?", SEEDED, id="demo-seeded"),
    pytest.param("tiny", "How many languages are in the world?", GREEDY, id="tiny-greedy"),
    pytest.param("tiny", "Tell me a story.", SEEDED, id="tiny-seeded"),
]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Endpoint:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


over_cases = pytest.mark.parametrize(("server", "prompt", "parameters"), CASES, indirect=["server"])


@over_cases
def test_the_pieces_add_up_to_the_answer_in_one_piece(
    server: Endpoint, prompt: str, parameters: dict[str, float]
) -> None:
    whole = server.ask(prompt, **parameters).json()
    streamed = stream(server, prompt, **parameters)
    assert streamed.text == whole["choices"][0]["message"]["content"]
    assert streamed.finish_reason == whole["choices"][0]["finish_reason"]
    assert counts(streamed.chunks[-1]) == counts(whole)
    assert len(streamed.chunks) > 3  # it came in pieces
    assert_well(server)


@over_cases
def test_the_events_are_as_in_the_contract(
    server: Endpoint, prompt: str, parameters: dict[str, float]
) -> None:
    streamed = stream(server, prompt, **parameters)
    assert WELL_FORMED.fullmatch(streamed.raw)
    assert streamed.raw.isascii()
    assert b"\r" not in streamed.raw
    chunks = streamed.chunks
    for name, kind in (("id", str), ("created", int), ("model", str)):
        (value,) = {chunk[name] for chunk in chunks}  # one for the whole stream
        assert type(value) is kind
    assert re.fullmatch("[0-9a-f]{32}", chunks[0]["id"])
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    for chunk in chunks:
        (choice,) = chunk["choices"]
        assert choice.keys() == {"index", "delta", "finish_reason", "logprobs"}
        assert None not in choice["delta"].values()
        assert choice["delta"].keys() <= {"role", "content"}
    assert streamed.deltas[0] == {"role": "assistant", "content": ""}
    assert streamed.deltas[-1] == {"content": ""}
    assert all(delta.keys() == {"content"} and delta["content"] for delta in streamed.deltas[1:-1])
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons[:-1] == [None] * (len(chunks) - 1)
    assert reasons[-1] in ("stop", "length")
    assert ["usage" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    usage = streamed.usage
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


def test_a_stream_announces_events_and_is_not_to_be_buffered(demo: RunningServer) -> None:
    body = {"messages": [user("hi")], "stream": True, "max_tokens": 2}
    response = demo.post(body)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize(
    "text", ["日本語", "e\u0301 ü", "😀🏳️‍🌈!", "\u202eabc", "\u0000\u001f\u007f"]
)
def test_characters_come_whole(parrot: ParrotServer, text: str) -> None:
    """The demo's tokens are bytes beyond ASCII, so most characters take several of them."""
    streamed = stream(parrot, text)
    assert streamed.text == text
    assert "\ufffd" not in streamed.text
    assert all(len(delta["content"]) <= 1 for delta in streamed.deltas)


def test_an_answer_cut_within_a_character_leaves_it_out(parrot: ParrotServer) -> None:
    for max_tokens in (4, 5, 6):  # 😀 would take four tokens
        streamed = stream(parrot, "abc😀", max_tokens=max_tokens)
        assert (streamed.text, streamed.finish_reason) == ("abc", "length")
        assert streamed.usage["completion_tokens"] == max_tokens
        assert parrot.text("abc😀", max_tokens=max_tokens) == "abc"


def test_bytes_that_are_no_character_do_not_end_an_answer(demo: RunningServer) -> None:
    """A random model says bytes that begin a character and never end it.

    Incremental decoding raised on them, which answered a fine request with 500.
    """
    for seed in range(8):
        parameters = {"temperature": 1.5, "seed": seed, "max_tokens": 64}
        response = demo.ask("Say anything", **parameters)
        assert response.status_code == 200, response.text
        whole = response.json()["choices"][0]["message"]["content"]
        assert stream(demo, "Say anything", **parameters).text == whole
    assert_well(demo)


def test_every_write_is_a_whole_number_of_events(parrot: ParrotServer) -> None:
    """Proxies cut anyhow, but a server need not begin: read the transfer chunks themselves."""
    address = urlsplit(parrot.base_url)
    body = json.dumps({"messages": [user("Ten little events")], "stream": True}).encode()
    head = (
        "POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(head.encode() + body)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    _, _, chunked = received.partition(b"\r\n\r\n")
    pieces = []
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        piece, chunked = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        pieces.append(piece)
    assert pieces.pop() == b""  # the clean end
    assert len(pieces) > 10
    assert all(piece.startswith(b"data: ") and piece.endswith(b"\n\n") for piece in pieces)
