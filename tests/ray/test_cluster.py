"""A cluster of two engines, as callers see it."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..http.event_streams import opened, stream
from ..http.pictures import about
from ..http.running_server import (
    Endpoint,
    RunningServer,
    assert_well,
    ready_server,
    user,
    wait_until,
)

TURNS = [
    *[user(f"{word} " * 40) for word in ("The", "quick", "brown", "fox", "jumps")],
    *(about("cat", "What is it?"), about("dog", "What is it?"), about("cat", "Why?")),
]


@pytest.fixture(scope="module")
def expected(demo_checkpoint: Path, logs: Path) -> Iterator[list[tuple[Any, ...]]]:
    """What one engine beside the application says to TURNS."""
    with ready_server(logs / "local.log", demo_checkpoint, "--device", "cpu") as server:
        yield [server.fingerprint(turn) for turn in TURNS]


@pytest.fixture(autouse=True)
def _left_well(cluster: RunningServer) -> Iterator[None]:
    yield
    # The probes' numbers are the replicas' reports, which come once a second.
    wait_until(cluster.is_idle, 15, "the cluster is idle and all blocks are free or cached")
    assert_well(cluster)


def test_a_cluster_says_what_one_engine_says(
    expected: list[tuple[Any, ...]], cluster: RunningServer
) -> None:
    with ThreadPoolExecutor(len(TURNS)) as threads:
        for _ in range(2):  # computed, and from what is known
            assert list(threads.map(cluster.fingerprint, TURNS)) == expected
    wait_until(
        lambda: all(engine["blocks_cached"] for engine in cluster.state()["engines"]),
        5,
        "both engines have worked",
    )


@pytest.mark.parametrize("content", ["golden", about("cat", "What is it?")["content"]])
def test_streamed_equals_whole(cluster: RunningServer, content: Any) -> None:
    whole = cluster.ask(content, max_tokens=40).json()
    streamed = stream(cluster, content, max_tokens=40)
    assert streamed.text == whole["choices"][0]["message"]["content"]
    assert streamed.finish_reason == whole["choices"][0]["finish_reason"] == "length"
    assert streamed.usage["completion_tokens"] == 40


def test_leaving_mid_stream_frees_the_blocks(cluster: RunningServer) -> None:
    for word in ("one", "another"):
        with opened(cluster, f"{word} " * 60, max_tokens=5000) as running:
            running.take(3)
            wait_until(lambda: cluster.state()["running"] == 1, 10, "it runs")
    wait_until(cluster.is_idle, 10, "nothing runs any more")


def test_second_turns_land_where_the_first_went(cluster: RunningServer) -> None:
    """Ten conversations about a picture each, all at once: a turn that lands elsewhere finds
    nothing of its conversation in the cache."""

    def converse(name: str) -> list[bool]:
        messages, landed = [about(name, f"What is {name}?")], []
        for turn in range(20):
            answer = cluster.post({"messages": messages, "temperature": 0, "max_tokens": 3}).json()
            usage = answer["usage"]["prompt_tokens_details"]
            landed.append(usage["cached_tokens"] > usage["image_tokens"])
            messages += [answer["choices"][0]["message"], user(f"And then, {turn}?")]
        return landed

    names = [f"picture {number}" for number in range(10)]
    with ThreadPoolExecutor(len(names)) as threads:
        landed = list(threads.map(converse, names))
    assert not any(first for first, *_ in landed)
    later = [one for _, *others in landed for one in others]
    assert sum(later) >= 0.9 * len(later), Counter(later)


def test_the_probe_counts_the_replicas(cluster: RunningServer) -> None:
    state = cluster.state()
    assert state["status"] == "ready"
    assert [engine["status"] for engine in state["engines"]] == ["ready"] * 2
    assert len({engine["name"] for engine in state["engines"]}) == 2
    assert state["blocks_total"] == sum(engine["blocks_total"] for engine in state["engines"])


def test_metrics_name_the_replicas(cluster: RunningServer) -> None:
    names = {engine["name"] for engine in cluster.state()["engines"]}
    lines = [line for line in cluster.get("/metrics").text.splitlines() if line[0] != "#"]
    # Of the application, or of an engine.
    assert all(('replica="' in line) != ('engine="' in line) for line in lines)
    for name in names:
        assert any(line.startswith(f'phi3v_kv_blocks{{engine="{name}"') for line in lines)


def test_an_answer_has_one_request_id(cluster: Endpoint) -> None:
    answer = cluster.ask("hi", max_tokens=1)
    assert len(answer.headers.get_list("x-request-id")) == 1
    given = cluster.post({"messages": [user("hi")], "max_tokens": 1}, x_request_id="mine")
    assert given.headers.get_list("x-request-id") == ["mine"]


def test_bad_requests_are_refused_as_anywhere(cluster: RunningServer) -> None:
    assert cluster.ask("hi", max_tokens=-1).status_code == 422
    assert cluster.ask("long " * 20_000).status_code in (400, 413)
    assert cluster.request("GET", "/nowhere").status_code == 404
