"""Replicas that are full, that die, and that go: the last test ends the cluster."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from ..http.error_bodies import assert_error
from ..http.event_streams import OpenStream, is_broken_off, opened
from ..http.running_server import RunningServer, wait_until
from ..http.test_data_parallel import engine_processes
from .conftest import ready_cluster, replica_processes

# Its death is seen in two seconds; starting another takes a few, on cores that have nothing else
# to do.
_REPLACED_S = 30.0
_RAYS_PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def tight(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """Two engines, each of which runs one request at a time, while two wait."""
    flags = ("--replicas", "2", "--max-num-seqs", "1", "--max-queued-requests", "2")
    with ready_cluster(logs / "tight.log", demo_checkpoint, *flags) as server:
        yield server


@contextmanager
def both_busy(server: RunningServer) -> Iterator[list[OpenStream]]:
    """A long stream from each engine."""
    wait_until(server.is_idle, 15, "both have reported that they are free")
    with ExitStack() as streams:
        running = [
            streams.enter_context(opened(server, f"{word} " * 60, max_tokens=1500))
            for word in ("one", "two")  # alike long: what comes next has no reason to prefer one
        ]
        for each in running:
            each.take(1)
        yield running


@contextmanager
def waiting(server: RunningServer, number: int) -> Iterator[list[Future[int]]]:
    """So many requests behind those that run: their statuses, once they are answered."""
    with ThreadPoolExecutor(number) as threads:
        asked = [
            threads.submit(lambda each=each: server.ask(f"{each}", max_tokens=2).status_code)
            for each in range(number)
        ]
        wait_until(lambda: server.state().get("waiting") == number, 15, "they wait")
        yield asked


def names(server: RunningServer) -> set[str]:
    """Of the replicas that take requests."""
    return {engine["name"] for engine in server.state().get("engines", [])}


def is_whole_again(server: RunningServer, before: set[str]) -> bool:
    """Whether there are two replicas, not both of them those from before."""
    now = names(server)
    return server.state()["status"] == "ready" and len(now) == 2 and now != before


def test_a_request_too_many_is_a_429(tight: RunningServer) -> None:
    with both_busy(tight), waiting(tight, 4) as others:
        answer = tight.ask("a seventh", max_tokens=2)
        assert_error(answer, 429, "too_many_requests")
        assert int(answer.headers["retry-after"]) >= 1
    assert [other.result() for other in others] == [200] * 4
    wait_until(tight.is_idle, 15, "both are free again")
    assert tight.ask("a seventh", max_tokens=2).status_code == 200


@pytest.mark.parametrize("process", ["replica", "its engine"])
def test_a_killed_replica_takes_its_running_request_only(
    tight: RunningServer, process: str
) -> None:
    """The engine's process dies with the replica's, which is its parent, or alone."""
    before = names(tight)
    with (
        both_busy(tight) as running,
        waiting(tight, 2) as others,
        ThreadPoolExecutor(2) as threads,
    ):
        is_replica = process == "replica"
        (replica_processes(tight, "Engine") if is_replica else engine_processes(tight))[0].kill()
        broken_off = threads.map(is_broken_off, running)
        wait_until(lambda: is_whole_again(tight, before), _REPLACED_S, "a new replica serves")
        assert sorted(broken_off) == [False, True]
        assert [other.result() for other in others] == [200, 200]
    assert len(replica_processes(tight, "Engine")) == len(engine_processes(tight)) == 2
    with both_busy(tight):
        pass
    wait_until(tight.is_idle, 15, "all blocks are back")


def test_without_an_engine_requests_are_a_503_at_once(tight: RunningServer) -> None:
    before = names(tight)
    for replica in replica_processes(tight, "Engine"):
        replica.kill()
    # What Ray kept until there is a replica would be answered, or time out.
    answers = [tight.ask("hi", max_tokens=2) for _ in range(5)]
    for answer in answers:
        assert_error(answer, 503, "not_ready")
        assert int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: not names(tight) & before, 30, "others have come")
    wait_until(lambda: is_whole_again(tight, before), 60, "two replicas serve")


def test_a_running_stream_outlives_the_signal_that_ends_the_cluster(tight: RunningServer) -> None:
    with opened(tight, "golden", max_tokens=1500) as running:
        running.take(1)
        left_behind = tight.resources.children(recursive=True)
        for engine in (engines := engine_processes(tight)):
            engine.suspend()
        tight.process.send_signal(signal.SIGTERM)
        # `serve.delete` would give up by then.
        time.sleep(_RAYS_PATIENCE_S + 5)
        for engine in engines:
            with suppress(psutil.NoSuchProcess):  # The idle one has gone with its replica.
                engine.resume()
        assert not is_broken_off(running)
    assert tight.process.wait(30) == 0
    wait_until(
        lambda: not [child for child in left_behind if child.is_running()], 10, "nothing is left"
    )
