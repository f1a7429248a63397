"""Replicas that are full, that die, and that go: the last test ends the cluster."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..http.error_bodies import assert_error
from ..http.event_streams import is_broken_off, opened
from ..http.running_server import RunningServer, wait_until
from ..http.test_data_parallel import engine_processes
from .conftest import ready_cluster, replica_processes


@pytest.fixture(scope="module")
def tight(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """Two engines, each of which takes one request at a time."""
    flags = ("--replicas", "2", "--max-num-seqs", "1", "--max-queued-requests", "0")
    with ready_cluster(logs / "tight.log", demo_checkpoint, *flags) as server:
        yield server


def num_running(server: RunningServer) -> int:
    return int(server.state()["running"])


def test_a_request_too_many_is_a_429(tight: RunningServer) -> None:
    with ExitStack() as streams:
        for word in ("one", "another"):
            streams.enter_context(opened(tight, f"{word} " * 60, max_tokens=3000)).take(1)
        answer = tight.ask("a third", max_tokens=2)
        assert_error(answer, 429, "too_many_requests")
        assert int(answer.headers["retry-after"]) >= 1
    wait_until(tight.is_idle, 15, "both are free again")
    assert tight.ask("a third", max_tokens=2).status_code == 200


def test_a_killed_replica_takes_its_requests_only(tight: RunningServer) -> None:
    before = {engine["name"] for engine in tight.state()["engines"]}
    with ExitStack() as streams:
        running = [
            streams.enter_context(opened(tight, f"{word} " * 60, max_tokens=3000))
            for word in ("one", "another")
        ]
        for each in running:
            each.take(3)
        replica_processes(tight, "Engine")[0].kill()
        killed = time.monotonic()
        with ThreadPoolExecutor(2) as threads:
            assert sorted(threads.map(is_broken_off, running)) == [False, True]
    wait_until(lambda: tight.ask("hi", max_tokens=2).status_code == 200, 10, "the other serves")

    def is_whole() -> bool:
        state = tight.state()
        names = {engine["name"] for engine in state.get("engines", [])}
        return state["status"] == "ready" and len(names) == 2 and names != before

    wait_until(is_whole, 30 - (time.monotonic() - killed), "a new replica serves")
    assert len(replica_processes(tight, "Engine")) == len(engine_processes(tight)) == 2
    with ExitStack() as streams:
        for word in ("one", "another"):
            streams.enter_context(opened(tight, f"{word} " * 60, max_tokens=3000)).take(1)
    wait_until(tight.is_idle, 15, "all blocks are back")


def test_a_dead_engine_is_replaced_with_its_replica(tight: RunningServer) -> None:
    """The engine's process dies, the replica's, which is its parent, does not."""
    before = {engine["name"] for engine in tight.state()["engines"]}
    engine_processes(tight)[0].kill()

    def is_whole() -> bool:
        names = {engine["name"] for engine in tight.state().get("engines", [])}
        return len(names) == 2 and names != before

    wait_until(is_whole, 45, "a new replica serves")


def test_a_running_stream_outlives_the_signal_that_ends_the_cluster(tight: RunningServer) -> None:
    with opened(tight, "golden", max_tokens=1500) as running:
        running.take(1)
        left_behind = tight.resources.children(recursive=True)
        tight.process.send_signal(signal.SIGTERM)
        assert not is_broken_off(running)
    assert tight.process.wait(30) == 0
    wait_until(
        lambda: not [child for child in left_behind if child.is_running()], 10, "nothing is left"
    )
