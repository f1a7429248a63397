"""Two engines behind one server, as callers, probes and an operator see them."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import torch

from .error_bodies import assert_error
from .event_streams import is_broken_off, opened
from .pictures import about
from .running_server import (
    RunningServer,
    assert_well,
    listening_server,
    ready_server,
    user,
    wait_until,
)

FLAGS = ("--device", "cpu", "--data-parallel", "2")


@pytest.fixture(scope="module")
def pair(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """A server with two engines; every test leaves it well."""
    with ready_server(logs / "pair.log", demo_checkpoint, *FLAGS) as server:
        yield server


@pytest.fixture
def own_pair(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """One whose engines may be killed."""
    with ready_server(logs / "own-pair.log", demo_checkpoint, *FLAGS) as server:
        yield server


def engine_processes(server: RunningServer) -> list[psutil.Process]:
    children = server.resources.children(recursive=True)
    return [child for child in children if "scoring.engine_process" in child.cmdline()]


def cached(server: RunningServer) -> list[int]:
    """What each engine has kept, in blocks."""
    return [engine["blocks_cached"] for engine in server.state()["engines"]]


def are_busy(server: RunningServer, num_running: int) -> bool:
    """Whether every engine runs so many requests."""
    return all(engine["running"] == num_running for engine in server.state()["engines"])


def test_two_engines_say_what_one_says(demo: RunningServer, pair: RunningServer) -> None:
    turns = [user(f"{word} " * 40) for word in ("The", "quick", "brown", "fox", "jumps")]
    turns += [about("cat", "What is it?"), about("dog", "What is it?"), about("cat", "Why?")]
    expected = [demo.fingerprint(turn) for turn in turns]
    with ThreadPoolExecutor(len(turns)) as threads:
        for _ in range(2):  # computed, and from what is known
            assert list(threads.map(pair.fingerprint, turns)) == expected
    assert all(cached(pair))  # both have worked
    assert_well(pair)


def test_requests_about_one_picture_land_together(pair: RunningServer) -> None:
    for picture in ("sun", "moon"):
        before = cached(pair)
        for question in ("What is it?", "Why is it so?", "Where does it come from?"):
            pair.fingerprint(about(picture, question))
        changed = [now != then for now, then in zip(cached(pair), before, strict=True)]
        assert sorted(changed) == [False, True]
    assert_well(pair)


def test_the_probes_add_the_engines_up(pair: RunningServer) -> None:
    with opened(pair, "golden", max_tokens=2000) as running:
        running.take(1)
        state = pair.state()
        assert state["status"] == "ready"
        assert [engine["status"] for engine in state["engines"]] == ["ready"] * 2
        assert sorted(engine["running"] for engine in state["engines"]) == [0, 1]
    for name in ("running", "waiting", "blocks_total", "blocks_free", "blocks_cached"):
        state = pair.state()
        assert state[name] == sum(engine[name] for engine in state["engines"])
    assert "; 2 engines" in pair.log
    assert_well(pair)


def test_a_killed_engine_takes_its_requests_only(own_pair: RunningServer) -> None:
    server = own_pair
    with ExitStack() as streams, ThreadPoolExecutor(2) as threads:
        running = [
            streams.enter_context(opened(server, f"{word} " * 60, max_tokens=1500))
            for word in ("one", "another")
        ]
        for each in running:
            each.take(3)
        whole = [
            threads.submit(server.ask, f"{word} " * 60, max_tokens=1500)
            for word in ("one", "another")
        ]
        wait_until(lambda: are_busy(server, 2), 10, "each engine runs a stream and a whole answer")
        engine_processes(server)[0].kill()
        assert sorted(map(is_broken_off, running)) == [False, True]
        # Another try would be answered: so the whole answer that is lost asks for one.
        answers = sorted((one.result() for one in whole), key=lambda one: one.status_code)
        assert answers[0].status_code == 200
        assert_error(answers[1], 503, "not_ready")
    for path in ("/health/ready", "/health/live"):
        response = server.get(path)
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        states = response.json()["engines"]
        assert sorted(engine["status"] for engine in states) == ["dead", "ready"]
        assert {"name", "status"} in [set(engine) for engine in states]
    assert "is dead; 1 of 2 serve" in server.log
    for word in ("one", "another", "a third"):
        assert server.ask(f"{word} " * 60, max_tokens=2).status_code == 200
    assert_well(server)

    (left,) = engine_processes(server)
    left.kill()
    wait_until(lambda: server.state()["status"] == "dead", 5, "the server knows of it")
    for path in ("/health/ready", "/health/live"):
        assert server.get(path).status_code == 503
    assert_error(server.ask("hi"), 503, "engine_dead")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.log


def test_a_degraded_server_drains_and_leaves_no_process(own_pair: RunningServer) -> None:
    dying, staying = engine_processes(own_pair)
    dying.kill()
    wait_until(lambda: own_pair.state()["status"] == "degraded", 5, "the server knows of it")
    with opened(own_pair, "golden", max_tokens=1500) as running:
        running.take(1)
        own_pair.process.send_signal(signal.SIGTERM)
        assert not is_broken_off(running)
    assert own_pair.process.wait(20) == 0
    assert not staying.is_running()
    assert "Traceback" not in own_pair.log


def test_more_engines_than_gpus_end_the_server(demo_checkpoint: Path, logs: Path) -> None:
    there = torch.cuda.device_count()
    if there > 1:
        pytest.skip("this machine has several CUDA devices")
    flags = ("--device", "cuda", "--data-parallel", "2")
    with listening_server(logs / "too-many.log", demo_checkpoint, *flags) as server:
        assert server.process.wait(60) == 1
        assert f"phi3v: device is 'cuda' and data_parallel is 2, but torch sees {there}" in (
            server.log
        )
        assert "Traceback" not in server.log
