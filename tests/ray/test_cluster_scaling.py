"""A cluster that has as many engines as its work asks for: two at the most, here."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from ..http.running_server import RunningServer, assert_well, wait_until
from .conftest import ready_cluster, replica_processes

# Ray's averages are of half a minute; then an engine must start.
_SCALED_S = 240.0
_MAX_NUM_SEQS = 16


@pytest.fixture(scope="module")
def elastic(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """One engine, or two."""
    flags = ("--max-replicas", "2", "--upscale-delay-s", "1", "--downscale-delay-s", "5")
    flags += ("--max-num-seqs", str(_MAX_NUM_SEQS))
    with ready_cluster(logs / "elastic.log", demo_checkpoint, *flags) as server:
        yield server


@contextmanager
def asking(num_callers: int, ask: Callable[[], None]) -> Iterator[None]:
    """So many callers, who ask again when they have been answered."""
    stopped = threading.Event()

    def call() -> None:
        while not stopped.is_set():
            ask()

    with ThreadPoolExecutor(num_callers) as threads:
        calls = [threads.submit(call) for _ in range(num_callers)]
        try:
            yield
        finally:
            stopped.set()
    for each in calls:
        each.result()


def num_engines(server: RunningServer) -> int:
    """That take requests, and have said so."""
    state = server.state()
    return [engine["status"] for engine in state.get("engines", [])].count("ready")


def assert_grows_and_shrinks(
    server: RunningServer, num_callers: int, ask: Callable[[], None]
) -> None:
    assert num_engines(server) == 1
    with asking(num_callers, ask):
        wait_until(lambda: num_engines(server) == 2, _SCALED_S, "a second engine serves")
    wait_until(lambda: num_engines(server) == 1, _SCALED_S, "one engine is left")
    wait_until(
        lambda: len(replica_processes(server, "Engine")) == 1, 30, "the other's process is gone"
    )
    assert_well(server)


def test_running_requests_add_an_engine_and_quiet_takes_it_away(elastic: RunningServer) -> None:
    """More of them than three quarters of an engine's places; their prompts are short."""

    def ask() -> None:
        assert elastic.ask("hi", max_tokens=200).status_code == 200

    assert_grows_and_shrinks(elastic, _MAX_NUM_SEQS, ask)


def test_queued_tokens_add_an_engine_and_quiet_takes_it_away(elastic: RunningServer) -> None:
    """Few requests, for which an engine has places enough, but with long prompts, none of which is
    known."""
    numbers = count()

    def ask() -> None:
        content = f"{next(numbers)} " + "word " * 1000
        assert elastic.ask(content, max_tokens=1).status_code == 200

    assert_grows_and_shrinks(elastic, _MAX_NUM_SEQS // 2, ask)
