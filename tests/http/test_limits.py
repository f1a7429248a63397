"""How long a request may take and how much it may hold."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from .error_bodies import assert_error
from .event_streams import opened, stream
from .parrot import Parrot, ParrotServer, parrot_server
from .pictures import image_part, plain_png
from .running_server import Endpoint, assert_well, user, wait_until

LONG = "This answer takes a while. " * 4

# Time


def test_a_request_whose_time_is_up_ends_with_what_it_has(demo_checkpoint: Path) -> None:
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), max_request_s=1) as server:
        server.parrot.step_s = 0.1
        answer = server.ask(LONG).json()
        streamed = stream(server, LONG)
        server.parrot.step_s = 0.0
        choice = answer["choices"][0]
        assert choice["finish_reason"] == streamed.finish_reason == "length"
        for text in (choice["message"]["content"], streamed.text):
            assert LONG.startswith(text)
            assert 0 < len(text) < len(LONG)
        assert answer["usage"]["completion_tokens"] < 20
        assert_well(server)


@pytest.mark.parametrize("setting", ["max_request_s", "max_queue_wait_s"])
def test_who_waits_too_long_is_told_so(demo_checkpoint: Path, setting: str) -> None:
    """One seat, which is taken for longer than anyone may wait."""
    status, code = {
        "max_request_s": (408, "request_timeout"),
        "max_queue_wait_s": (429, "too_many_requests"),
    }[setting]
    parrot = Parrot(demo_checkpoint)
    with (
        parrot_server(demo_checkpoint, parrot, max_num_seqs=1, **{setting: 0.5}) as server,
        ThreadPoolExecutor(3) as threads,
    ):
        parrot.step_s, steps = 0.8, parrot.num_steps
        running = threads.submit(server.ask, "This one has the seat", max_tokens=1)
        wait_until(lambda: parrot.num_steps > steps, 10, "it runs")
        refused, broken = threads.submit(server.ask, "hi"), threads.submit(received, server, "hi")
        assert running.result().status_code == 200
        assert_error(refused.result(), status, code)
        if status == 429:
            assert int(refused.result().headers["retry-after"]) >= 1
        # The stream has begun, so the error is its last event, and it does not end cleanly.
        assert f'"code":"{code}"' in broken.result()
        assert "[DONE]" not in broken.result()
        parrot.step_s = 0.0
        wait_until(server.is_idle, 5, "it is idle")
        assert_well(server)


def received(server: Endpoint, content: str) -> str:
    """What comes of a stream that breaks."""
    body = {"messages": [user(content)], "stream": True}
    pieces: list[str] = []
    with (
        server.client() as client,
        client.stream("POST", "/chat/completions", json=body) as response,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            pieces.extend(response.iter_text())
        return "".join(pieces)


def test_who_waits_a_little_gets_his_answer(demo_checkpoint: Path) -> None:
    parrot = Parrot(demo_checkpoint)
    with (
        parrot_server(demo_checkpoint, parrot, max_num_seqs=1, max_queue_wait_s=20) as server,
        ThreadPoolExecutor(3) as threads,
    ):
        parrot.step_s = 0.02
        assert list(threads.map(server.text, ["one", "two", "three"])) == ["one", "two", "three"]


def test_a_place_in_the_queue_is_free_again_after_the_wait(demo_checkpoint: Path) -> None:
    parrot = Parrot(demo_checkpoint)
    with (
        parrot_server(
            demo_checkpoint, parrot, max_num_seqs=1, max_queued=1, max_queue_wait_s=0.5
        ) as server,
        opened(server, LONG) as running,
    ):
        running.take(1)
        parrot.step_s = 0.1
        for _ in range(2):  # the second one found the only chair taken, were it not free again
            message = assert_error(server.ask("hi"), 429)["message"]
            assert "waited too long" in message
        parrot.step_s = 0.0


# Size


@pytest.fixture(scope="module")
def strict(demo_checkpoint: Path) -> Any:
    limits = {"max_text_kib": 1, "max_images": 2, "max_image_mib": 1}
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), **limits) as server:
        yield server


def test_text_is_limited_over_all_messages(strict: ParrotServer) -> None:
    assert strict.ask("x" * 900, max_tokens=1).status_code == 200
    many = [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "x" * 300}]
    parts = {"role": "user", "content": [{"type": "text", "text": "x" * 250} for _ in range(2)]}
    for messages in ([user("x" * 1025)], [*many, parts], [user("é" * 513)]):
        error = assert_error(strict.post({"messages": messages}), 413, "body_too_large", "messages")
        assert "1024 are allowed" in error["message"]
    assert strict.ask("é" * 300, max_tokens=1).status_code == 200
    assert_well(strict)


def test_a_request_refused_for_its_size_ran_no_step(strict: ParrotServer) -> None:
    steps = strict.parrot.num_steps
    assert_error(strict.ask("x" * 100_000), 413)
    assert strict.parrot.num_steps == steps


def test_images_are_counted_over_all_messages(strict: ParrotServer) -> None:
    turn = {"role": "user", "content": [image_part(plain_png(8, 8)), {"type": "text", "text": "?"}]}
    said = {"role": "assistant", "content": "A square."}
    messages = [turn, said, turn, said, user("What did I ask?")]
    assert strict.post({"messages": messages, "max_tokens": 1}).status_code == 200
    refused = strict.post({"messages": [turn, said, *messages]})
    message = assert_error(refused, 422, "invalid_parameter", "messages")["message"]
    assert "3 images; 2 are allowed" in message
    assert_well(strict)


def test_an_images_file_is_limited_before_it_is_decoded(strict: ParrotServer) -> None:
    """What it holds does not matter, as nobody looks."""
    refused = strict.ask([image_part(bytes((1 << 20) + 100))])
    error = assert_error(refused, 413, "body_too_large", "messages.0.content.0.image_url.url")
    assert "1 are allowed" in error["message"]
    nearly = strict.ask([image_part(bytes((1 << 20) - 100))])
    assert_error(nearly, 422, "invalid_parameter")  # no picture, but of a size to be looked at
    assert_well(strict)


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([user("a"), {"role": "assistant", "content": "b"}] * 512, 200),
        ([user("a")] * 1025, 422),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}] * 1024}], 200),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}] * 1025}], 422),
        ([{"role": "user"}] * 100_000, 422),
    ],
    ids=["1024 messages", "1025 messages", "1024 parts", "1025 parts", "100000 messages"],
)
def test_messages_and_their_parts_are_counted(
    demo_checkpoint: Path, messages: list[Any], status: int
) -> None:
    parrot = Parrot(demo_checkpoint)
    with parrot_server(demo_checkpoint, parrot, max_model_len=16384) as server:
        answer = server.post({"messages": messages, "max_tokens": 1})
        assert answer.status_code == status, answer.text
        if status == 422:
            assert "1024" in assert_error(answer, 422)["message"]
        assert_well(server)


# Whose cache


def test_callers_with_different_keys_share_no_prefix(demo_checkpoint: Path) -> None:
    """Else the time of a first token would tell what others have asked."""
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), api_key="a,b") as server:
        prompt = "A prompt that somebody else must not be able to guess. " * 4
        cached = [server.state()["blocks_cached"]]
        for key in ("a", "a", "b", "b"):
            Endpoint(server.base_url, key).ask(prompt, max_tokens=1)
            cached.append(server.state()["blocks_cached"])
        grown = [after - before for before, after in pairwise(cached)]
        assert grown[0] == grown[2] >= 10
        assert grown[1] == grown[3] == 0
