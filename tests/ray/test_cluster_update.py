"""A new version, fewer engines: what an operator does while callers read their streams. Each test
goes on where the one before it ended."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..http.event_streams import stream
from ..http.running_server import RunningServer, assert_well, wait_until
from .conftest import replica_processes
from .ray_head import RayHead

_NUM_TOKENS = 1000
_CONTENTS = [f"{word} " * 60 for word in ("one", "another", "a third")]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    with RayHead.started(tmp_path_factory.mktemp("head")) as head:
        yield head


class Callers:
    """They ask for one long stream after another, and for short answers meanwhile. What they hear
    from a server that stays as it is, they must hear all the time."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._expected = {content: self._stream(content) for content in _CONTENTS}
        self._stopped = threading.Event()
        self.num_streams = 0
        self.statuses: Counter[int] = Counter()

    @contextmanager
    def calling(self) -> Iterator[None]:
        """All the while. Fails with the first stream that broke off or said something else."""
        self._stopped.clear()
        with ThreadPoolExecutor(len(_CONTENTS) + 1) as threads:
            jobs = [threads.submit(self._read_streams, content) for content in _CONTENTS]
            jobs.append(threads.submit(self._ask))
            try:
                wait_until(self._all_are_busy, 60, "every engine has a stream")
                yield
            finally:
                self._stopped.set()
        for job in jobs:
            job.result()

    def _all_are_busy(self) -> bool:
        return all(engine["running"] for engine in self._server.state()["engines"])

    def _stream(self, content: str) -> str:
        """Its text, once it has come to its proper end."""
        return stream(self._server, content, max_tokens=_NUM_TOKENS).text

    def _read_streams(self, content: str) -> None:
        while not self._stopped.is_set():
            assert self._stream(content) == self._expected[content]
            self.num_streams += 1

    def _ask(self) -> None:
        while not self._stopped.wait(0.1):
            self.statuses[self._server.ask("hi", max_tokens=2).status_code] += 1


@pytest.fixture(scope="module")
def callers(head: RayHead, demo_checkpoint: Path) -> Callers:
    """Of two engines behind two copies of the application."""
    head.deploy(model=str(demo_checkpoint))
    head.wait_until_settled(Engine=2, Ingress=2)
    head.wait_until_ready(2)
    head.application.remember_golden()
    return Callers(head.application)


def assert_left_as(
    head: RayHead, num_engines: int, num_ingresses: int, status: str = "ready"
) -> None:
    """So many processes, and nothing that runs or holds blocks."""
    head.wait_until_ready(num_engines, status)
    wait_until(head.application.is_idle, 15, "all blocks are free or cached")
    assert_well(head.application)
    assert len(replica_processes(head.application, "Engine")) == num_engines
    assert len(replica_processes(head.application, "Ingress")) == num_ingresses


def test_a_new_version_takes_over_and_nobody_notices(head: RayHead, callers: Callers) -> None:
    before = head.wait_until_settled(Engine=2, Ingress=2)
    with callers.calling():
        head.deploy(max_num_seqs=32)
        head.wait_until_settled(without=before, Engine=2, Ingress=2)
    assert callers.num_streams >= len(_CONTENTS)
    assert set(callers.statuses) == {200}, callers.statuses
    assert_left_as(head, 2, 2)


def test_fewer_engines_finish_what_they_have(head: RayHead, callers: Callers) -> None:
    """By the deployment's own option: nothing else is restarted."""
    before = head.wait_until_settled(Engine=2, Ingress=2)
    with callers.calling():
        head.deploy({"name": "Engine", "num_replicas": 1})
        assert head.wait_until_settled(Engine=1, Ingress=2) < before
    assert set(callers.statuses) == {200}, callers.statuses
    assert_left_as(head, 1, 2, status="degraded")


def test_a_single_engine_is_there_first_where_the_operator_says_so(
    head: RayHead, callers: Callers
) -> None:
    before = head.wait_until_settled(Engine=1, Ingress=2)
    with callers.calling():
        head.deploy({"name": "Engine", "max_surge_percent": 100}, replicas=1)
        head.wait_until_settled(without=before, Engine=1, Ingress=2)
    assert set(callers.statuses) == {200}, callers.statuses
    assert_left_as(head, 1, 2)
