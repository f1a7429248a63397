"""What anyone may ask: which model this is, and how it is."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from scoring.async_engine import AsyncEngine
from scoring.engine_config import EngineConfig
from tests.engine import toy_engine

from .error_bodies import assert_error
from .event_streams import opened
from .parrot import threaded_server
from .running_server import (
    Endpoint,
    RunningServer,
    assert_well,
    listening_server,
    user,
    wait_until,
)

DEMO = {
    "model_name": "phi3v-demo",
    "model_type": "chat-completions",
    "model_provider_name": "phi3v-server",
    "notice": "DEMO: a model of random weights. What it says is noise.",
}


@pytest.mark.parametrize(
    "query",
    ["", "?api-version=2024-05-01-preview", "?api-version=2025-04-01&model=x", "?api-version="],
)
def test_info_gives_exactly_three_strings_whatever_the_api_version(
    tiny: RunningServer, query: str
) -> None:
    response = tiny.get(f"/info{query}")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "model_name": "Phi-3-vision-128k-Instruct",
        "model_type": "chat-completions",
        "model_provider_name": "Microsoft",
    }


def test_the_demo_says_beside_the_three_that_it_is_one(demo: RunningServer) -> None:
    assert demo.get("/info").json() == DEMO


def test_the_root_says_healthy(demo: RunningServer) -> None:
    response = demo.get("/")
    assert (response.status_code, response.text) == (200, "Healthy")
    assert response.headers["content-type"].startswith("text/plain")


def test_a_ready_server_counts_its_blocks(demo: RunningServer) -> None:
    assert_well(demo)
    state = demo.state()
    assert state["status"] == "ready"
    assert state["blocks_free"] + state["blocks_cached"] == state["blocks_total"] > 0


def test_the_deep_probe_gets_a_token_out_of_the_engine(demo: RunningServer) -> None:
    first, second = demo.get("/health/deep"), demo.get("/health/deep")
    assert first.status_code == 200
    assert first.json()["status"] == "ok"
    assert first.json()["seconds"] > 0
    assert second.json() == first.json(), "asked again at once, it tells what it knows"
    assert_well(demo)


def test_an_engine_that_makes_no_step_with_work_waiting_fails_all_probes(
    demo_checkpoint: Path,
) -> None:
    build = toy_engine.NAME + "build_with_endless_steps"

    def make_engine() -> AsyncEngine:
        config = EngineConfig(demo_checkpoint)
        return AsyncEngine(config, max_queued=4, own_process=True, build=build)

    with threaded_server(demo_checkpoint, make_engine, stall_s=1.0) as (url, _):
        server = Endpoint(url)
        assert server.get("/health/live").status_code == 200
        assert server.state()["status"] == "ready"
        with opened(server, "golden"):
            assert server.get("/health/live").status_code == 200, "it has had no time yet"
            stalled = wait_until(
                lambda: (answer := server.get("/health/live")).status_code == 503 and answer,
                10,
                "liveness fails",
            )
            assert stalled.json()["status"] == "stalled"
            assert stalled.json()["last_step_age_s"] >= 1.0
            assert server.get("/health/ready").status_code == 503
            deep = server.request("GET", "/health/deep")
            assert deep.status_code == 503
            assert deep.json() == {"status": "failed", "reason": "no token within 5 s"}
        wait_until(lambda: server.get("/health/live").status_code == 200, 5, "nothing is open")


@pytest.mark.parametrize("path", ["/chat/completions", "/chat/completions?api-version=2024-05-01"])
def test_any_api_version_is_taken_for_chats_too(demo: RunningServer, path: str) -> None:
    body = {"messages": [user("hi")], "max_tokens": 1}
    assert demo.request("POST", path, json=body).status_code == 200


@dataclass
class Diary:
    """What a server answered from its first moment until it was ready."""

    seconds_to_listen: float = 0.0
    live: list[httpx.Response] = field(default_factory=list)
    not_ready: list[httpx.Response] = field(default_factory=list)
    info: list[httpx.Response] = field(default_factory=list)
    chats: list[httpx.Response] = field(default_factory=list)


@pytest.fixture(scope="module")
def diary(demo_checkpoint: Path, logs: Path) -> Iterator[Diary]:
    """A server is started and asked everything, over and over, while it loads."""
    diary, start = Diary(), time.monotonic()
    with (
        listening_server(logs / "loading.log", demo_checkpoint) as server,
        server.client() as client,
    ):
        diary.live.append(client.get("/health/live"))
        diary.seconds_to_listen = time.monotonic() - start
        body: dict[str, Any] = {"messages": [user("hi")], "max_tokens": 1}
        while (ready := client.get("/health/ready")).status_code != 200:
            assert time.monotonic() - start < 60, server.log
            info, chat = client.get("/info"), client.post("/chat/completions", json=body)
            live = client.get("/health/live")
            if client.get("/health/ready").status_code == 200:
                break  # it got ready between the questions: these answers may be of either time
            diary.not_ready.append(ready)
            diary.info.append(info)
            diary.chats.append(chat)
            diary.live.append(live)
            time.sleep(0.02)
        assert client.post("/chat/completions", json=body).status_code == 200
        yield diary


def test_the_port_is_open_long_before_the_weights_are_there(diary: Diary) -> None:
    """Two seconds on a quiet machine; other processes may run beside the tests."""
    assert diary.seconds_to_listen < 5
    assert diary.not_ready


def test_a_loading_server_is_alive_but_not_ready_and_tells_how_far_it_is(diary: Diary) -> None:
    assert {response.status_code for response in diary.live} == {200}
    states = [response.json() for response in diary.not_ready]
    assert {response.status_code for response in diary.not_ready} == {503}
    stages = [state["status"] for state in states]
    order = ["starting", "loading", "warming"]
    assert set(stages) <= set(order)
    assert stages == sorted(stages, key=order.index)
    assert stages[0] == "starting"
    assert stages[-1] == "warming"
    percents = [state["percent"] for state in states]
    assert percents == sorted(percents)
    assert 0 <= percents[0] <= percents[-1] <= 100


def test_a_loading_server_knows_which_model_it_will_be(diary: Diary) -> None:
    assert {response.status_code for response in diary.info} == {200}
    assert all(response.json() == DEMO for response in diary.info)


def test_a_chat_with_a_loading_server_is_to_be_tried_again_later(diary: Diary) -> None:
    for ready, response in zip(diary.not_ready, diary.chats, strict=True):
        if response.status_code == 200:  # it is about to be ready, and takes early callers
            assert ready.json()["status"] == "warming"
            continue
        assert_error(response, 503, "not_ready")
        assert int(response.headers["retry-after"]) >= 1
