"""One caller's quota, whichever copy of the application it happens to reach."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..http.running_server import RunningServer, wait_until
from .conftest import ready_cluster, replica_processes

_PER_MINUTE = 12


@pytest.fixture(scope="module")
def metered(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    flags = ("--ingress-replicas", "2", "--requests-per-minute", str(_PER_MINUTE))
    flags += ("--tokens-per-minute", "100000")
    with ready_cluster(
        logs / "metered.log", demo_checkpoint, *flags, api_key="golden,mine"
    ) as server:
        wait_until(lambda: len(replica_processes(server, "Ingress")) == 2, 30, "both are there")
        yield server


def test_a_quota_is_kept_once_for_all_copies(metered: RunningServer) -> None:
    metered.api_key = "mine"

    def copies() -> set[str]:
        pages = [metered.get("/metrics").text for _ in range(10)]
        return {re.search(r'replica="(\w+)"', page)[1] for page in pages}  # type: ignore[index]

    wait_until(lambda: len(copies()) == 2, 30, "both copies answer")
    answers = [metered.ask("hi", max_tokens=1) for _ in range(2 * _PER_MINUTE)]
    answered = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(answered) + len(refused) == len(answers)
    # A bucket fills up while it is used: by one in five seconds.
    assert _PER_MINUTE <= len(answered) <= _PER_MINUTE + 6
    left = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answered]
    assert left[:3] == [_PER_MINUTE - 1, _PER_MINUTE - 2, _PER_MINUTE - 3]
    assert int(refused[0].headers["retry-after"]) >= 1
    assert answered[0].headers["x-ratelimit-limit-tokens"] == "100000"
