"""What goes wrong after the first byte, and what an engine's death looks like from outside."""

import json
import socket
import threading
from collections.abc import Iterator
from collections.abc import Sequence as Items
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from scoring.async_engine import AsyncEngine
from scoring.engine import Engine
from scoring.engine_config import EngineConfig
from scoring.errors import CheckpointError
from scoring.prompt import ChatMessage, Prompt, PromptBuilder
from scoring.scheduler import ScheduledRow

from .error_bodies import assert_error
from .event_streams import OpenStream, opened, stream
from .parrot import Parrot, ParrotServer, parrot_server, threaded_server
from .raw_http import connect
from .running_server import Endpoint, assert_well, user

CURSED = 66  # the length of the prompt that brings bad luck
AFTER = 3  # output tokens


class Faults:
    """Raises an error of the given kind for a row whose prompt has CURSED tokens, once it has
    given AFTER tokens."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, row: ScheduledRow) -> None:
        sequence = row.sequence
        if sequence.num_prompt_tokens == CURSED and sequence.num_output_tokens >= AFTER:
            raise self.error


@pytest.fixture
def unlucky(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    """A server on which one prompt always fails by itself."""
    parrot = Parrot(demo_checkpoint, step_s=0.01, fault=Faults(ValueError("0xdeadbeef in /tmp/x")))
    with parrot_server(demo_checkpoint, parrot) as server:
        yield server


@pytest.fixture
def mortal(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    """A server whose device fails on that prompt, which nothing survives."""
    error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    parrot = Parrot(demo_checkpoint, step_s=0.01, fault=Faults(error))
    with parrot_server(demo_checkpoint, parrot, drain_s=0) as server:
        yield server


def cursed_prompt(server: Endpoint) -> str:
    around = server.ask("x", max_tokens=1).json()["usage"]["prompt_tokens"] - 1
    return "abcdef" + "x" * (CURSED - around - 6)


def read_broken(server: Endpoint, prompt: str) -> list[dict[str, Any]]:
    """The events of a stream that must not end in good order."""
    with opened(server, prompt) as broken:
        return rest_of_broken(broken)


def rest_of_broken(broken: OpenStream) -> list[dict[str, Any]]:
    lines: list[str] = []
    with pytest.raises(httpx.RemoteProtocolError):
        lines.extend(broken.lines)
    assert not any("[DONE]" in line for line in lines)
    return [json.loads(line[6:]) for line in lines if line]


def assert_broken_off(events: list[dict[str, Any]], code: str) -> None:
    """Text, then an event that only says what is wrong."""
    *good, bad = events
    text = "".join(event["choices"][0]["delta"]["content"] for event in good)
    assert text == "abcdef"[:AFTER]
    assert all(event["choices"][0]["finish_reason"] is None for event in good)
    assert bad["choices"] == []
    assert bad["id"] == good[0]["id"]
    assert bad["error"]["code"] == code
    assert bad["error"]["message"]
    assert "usage" not in bad
    for secret in ("0x", "/tmp", "CUDA", "Traceback"):
        assert secret not in json.dumps(bad)


def test_a_failing_sequence_breaks_its_stream_off(unlucky: ParrotServer) -> None:
    assert_broken_off(read_broken(unlucky, cursed_prompt(unlucky)), "generation_failed")
    assert unlucky.get("/health/live").status_code == 200
    assert_well(unlucky)


def test_a_broken_stream_does_not_end_with_the_last_transfer_chunk(unlucky: ParrotServer) -> None:
    body = json.dumps({"messages": [user(cursed_prompt(unlucky))], "stream": True}).encode()
    head = (
        "POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    )
    with connect(unlucky) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b'"error"' in received
    assert received.endswith(b"}\n\n\r\n")  # a whole event, and not the 0 that would end it all
    assert_well(unlucky)


def test_a_failing_sequence_is_not_worth_a_retry(unlucky: ParrotServer) -> None:
    """Every SDK repeats a 500 or 503, so that one bad prompt would be computed four times."""
    assert_error(unlucky.ask(cursed_prompt(unlucky)), 424, "generation_failed")
    assert_well(unlucky)


@pytest.fixture
def cramped(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    """A server on which that prompt takes more memory than there is."""
    fault = Faults(MemoryError("0xdeadbeef in /tmp/x"))
    with parrot_server(
        demo_checkpoint, Parrot(demo_checkpoint, step_s=0.01, fault=fault)
    ) as server:
        yield server


def test_what_would_never_fit_is_not_worth_a_retry(cramped: ParrotServer) -> None:
    refused = cramped.ask(cursed_prompt(cramped))
    assert_error(refused, 422, "invalid_parameter")
    assert "memory" in refused.json()["message"]
    assert "retry-after" not in refused.headers
    assert_well(cramped)


def test_a_shortage_of_memory_beside_others_is_worth_a_retry(cramped: ParrotServer) -> None:
    """A 503 would be repeated at once by every SDK; a 429 when we say so."""
    prompt = cursed_prompt(cramped)
    with opened(cramped, "y" * 300, max_tokens=300) as other:
        other.take(1)
        refused = cramped.ask(prompt)
        broken = read_broken(cramped, prompt)
        assert int(refused.headers["retry-after"]) >= 1
        assert_error(refused, 429, "too_many_requests")
        assert_broken_off(broken, "too_many_requests")
        other.take_rest()
    assert other.is_done
    assert other.text == "y" * 300
    assert_well(cramped)


def test_only_the_sequence_that_fails_fails(unlucky: ParrotServer) -> None:
    texts = ["The first of three.", "The second, which is longer.", "The third of them, at last."]
    heard: dict[str, str] = {}

    def listen(text: str) -> None:
        heard[text] = stream(unlucky, text).text

    threads = [threading.Thread(target=listen, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert_broken_off(read_broken(unlucky, cursed_prompt(unlucky)), "generation_failed")
    for thread in threads:
        thread.join()
    assert heard == {text: text for text in texts}
    assert any(len(rows) > 1 for rows in unlucky.parrot.rows_of_steps)  # they did run together
    assert_well(unlucky)


def test_an_engine_that_dies_breaks_every_stream_off(mortal: ParrotServer) -> None:
    prompt = cursed_prompt(mortal)
    with opened(mortal, "y" * 500) as other:
        other.take(1)
        assert_broken_off(read_broken(mortal, prompt), "engine_dead")
        last = rest_of_broken(other)[-1]
    assert (last["choices"], last["error"]["code"]) == ([], "engine_dead")
    for path in ("/health/live", "/health/ready"):
        assert mortal.get(path).status_code == 503
        assert mortal.get(path).json()["status"] == "dead"
    # Nothing here can mend it, so there is no Retry-After.
    assert_error(mortal.ask("hi"), 503, "engine_dead")
    assert mortal.get("/info").status_code == 200


def test_an_engine_that_dies_answers_who_waits_for_a_whole_answer(mortal: ParrotServer) -> None:
    assert_error(mortal.ask(cursed_prompt(mortal)), 503, "engine_dead")
    assert mortal.get("/health/live").status_code == 503


def test_an_engine_that_cannot_be_built_tells_the_operator(demo_checkpoint: Path) -> None:
    def build(config: EngineConfig, progress: Any) -> Engine:
        raise CheckpointError("1 missing: lm_head.weight")

    make_engine = partial(AsyncEngine, EngineConfig(demo_checkpoint), max_queued=1, build=build)
    with threaded_server(demo_checkpoint, make_engine) as (base_url, failures):
        server = Endpoint(base_url)
        assert server.get("/health/live").status_code == 503
        assert server.get("/health/ready").status_code == 503
        assert_error(server.ask("hi"), 503, "engine_dead")
    assert failures == ["1 missing: lm_head.weight"]


class Stumbling(PromptBuilder):
    """One with a bug: it stumbles over a word."""

    def build(self, messages: Items[ChatMessage]) -> Prompt:
        if messages[-1].text == "stumble":
            raise RuntimeError("0xdeadbeef in /tmp/secret.py: stumble")
        return super().build(messages)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_bug_of_ours_is_a_500_that_says_nothing(demo_checkpoint: Path, streamed: bool) -> None:
    with parrot_server(
        demo_checkpoint, Parrot(demo_checkpoint), prompt_builder=Stumbling
    ) as server:
        body = {"messages": [user("stumble")], "stream": streamed}
        response = server.post(body, x_request_id="find-me", x_ms_client_request_id="and-me")
        assert_error(response, 500, "internal_error")
        assert "stumble" not in response.text
        assert response.headers["x-request-id"] == "find-me"
        assert response.headers["x-ms-client-request-id"] == "and-me"
        assert_well(server)


def test_a_slow_reader_holds_up_nobody(demo_checkpoint: Path) -> None:
    """One client takes a few bytes and then none; its answer waits for it, others' do not."""
    parrot = Parrot(demo_checkpoint)
    with parrot_server(demo_checkpoint, parrot, max_model_len=4096, drain_s=0) as server:
        body = json.dumps({"messages": [user("z" * 1500)], "stream": True, "max_tokens": 1500})
        head = (
            "POST /chat/completions HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\n"
        )
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = httpx.URL(server.base_url)
        connection.connect((url.host, url.port))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert connection.recv(100)
        for text in ("one", "two", "three"):
            assert stream(server, text).text == text
        connection.close()
        assert_well(server)
