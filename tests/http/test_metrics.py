"""Prometheus's page: what is counted and timed, and that no caller can add to its series."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .event_streams import opened
from .pictures import data_url, plain_png
from .running_server import RunningServer, assert_well, ready_server, user, wait_until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def server(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    with ready_server(logs / "metrics.log", demo_checkpoint, "--max-num-seqs", "2") as server:
        yield server


def samples(server: RunningServer) -> Samples:
    page = server.get("/metrics")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def test_a_chat_with_a_picture_is_counted_and_each_of_its_stages_timed(
    server: RunningServer,
) -> None:
    before = samples(server)
    picture = {"type": "image_url", "image_url": {"url": data_url(plain_png(90, 60))}}
    parts = [picture, {"type": "text", "text": "what is it?"}]
    usage = [server.ask(parts, max_tokens=5, ignore_eos=True).json() for _ in range(1)]
    assert "error" in usage[0]  # ignore_eos is not Azure's: a 400, counted, too
    answer = server.ask(parts, max_tokens=5)
    usage = answer.json()["usage"]
    after = samples(server)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    route = "/chat/completions"
    assert grown("phi3v_requests_total", route=route, code="200") == 1
    assert grown("phi3v_requests_total", route=route, code="400") == 1
    reason = answer.json()["choices"][0]["finish_reason"]
    assert grown("phi3v_completions_total", finish_reason=reason) == 1
    assert grown("phi3v_prompt_tokens_total") == usage["prompt_tokens"]
    assert grown("phi3v_generation_tokens_total") == usage["completion_tokens"]
    assert grown("phi3v_image_tokens_total") == usage["prompt_tokens_details"]["image_tokens"] > 0
    assert grown("phi3v_images_total") == 1
    assert grown("phi3v_images_encoded_total", engine="0") == 1
    for name in (
        "phi3v_request_queue_time_seconds",
        "phi3v_time_to_first_token_seconds",
        "phi3v_e2e_request_latency_seconds",
        "phi3v_image_decode_seconds",
        "phi3v_image_encode_seconds",
    ):
        assert grown(f"{name}_count") == 1, name
        assert grown(f"{name}_sum") > 0, name
    gaps = usage["completion_tokens"] - 1
    assert grown("phi3v_inter_token_latency_seconds_count") == gaps
    assert_well(server)


def test_what_came_from_the_prefix_cache_is_counted(server: RunningServer) -> None:
    prompt = "the same long beginning " * 20
    server.text(prompt, max_tokens=1)
    before = samples(server)
    usage = server.ask(prompt, max_tokens=1).json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    name = "phi3v_prompt_tokens_cached_total"
    assert value(samples(server), name) - value(before, name) == cached > 0


def test_the_gauges_tell_what_runs_what_waits_and_whose_the_blocks_are(
    server: RunningServer,
) -> None:
    with (
        opened(server, "golden", max_tokens=3000) as one,
        opened(server, "golden", max_tokens=3000) as two,
        opened(server, "golden", max_tokens=3000),
    ):
        one.take(2)
        two.take(2)
        wait_until(
            lambda: value(samples(server), "phi3v_num_requests_waiting", engine="0") == 1,
            5,
            "waits",
        )
        found = samples(server)
        assert value(found, "phi3v_num_requests_running", engine="0") == 2
        assert value(found, "phi3v_kv_blocks", engine="0", state="used") > 0
        assert value(found, "phi3v_engine_step_age_seconds", engine="0") >= 0
        assert value(found, "phi3v_engine_state", state="ready") == 1
        assert value(found, "phi3v_engine_state", state="dead") == 0
        assert value(found, "process_resident_memory_bytes") > 0
        assert value(found, "phi3v_child_processes_resident_memory_bytes") > 0
    state = server.state()
    assert state["blocks_total"] == sum(
        value(found, "phi3v_kv_blocks", engine="0", state=kind)
        for kind in ("used", "cached", "free")
    )
    assert_well(server)


def test_the_build_is_described(server: RunningServer) -> None:
    (info,) = [labels for name, labels in samples(server) if name == "phi3v_build_info"]
    assert dict(info).keys() == {"version", "model", "device", "dtype", "attention"}
    assert dict(info)["device"] == "cpu"
    assert dict(info)["model"] == "phi3v-demo"


def test_a_caller_that_leaves_is_counted_streamed_or_not(server: RunningServer) -> None:
    labels = {"reason": "client_left"}
    name = "phi3v_completions_aborted_total"
    before = value(samples(server), name, **labels)
    with opened(server, "golden", max_tokens=8000) as stream:
        stream.take(2)
    body = {"messages": [user("golden")], "max_tokens": 8000, "temperature": 0}
    with server.client(timeout=0.5) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/chat/completions", json=body)
    wait_until(lambda: value(samples(server), name, **labels) == before + 2, 10, "both are counted")
    assert_well(server)


def test_no_caller_can_add_a_series(server: RunningServer) -> None:
    server.get("/nothing/0")
    server.post({"messages": [user("hi")], "max_tokens": 1, "model": "a"})
    before = samples(server).keys()
    with server.client() as client:
        for number in range(200):
            client.get(f"/nothing/{number}", headers={"x-request-id": f"id-{number}"})
            client.request("POST", f"/openai/deployments/d{number}/nothing")
    for number in range(5):
        body = {"messages": [user("hi")], "max_tokens": 1, "model": f"model-{number}"}
        server.post(body | {"user": f"user-{number}"}, extra_parameters="drop")
    assert samples(server).keys() == before


def test_the_page_is_as_private_as_a_chat(small: RunningServer) -> None:
    assert httpx.get(f"{small.base_url}/metrics").status_code == 401
    assert small.get("/metrics").status_code == 200


def test_the_event_loops_lag_is_watched(server: RunningServer) -> None:
    asyncio.run(asyncio.sleep(0.6))
    assert value(samples(server), "phi3v_event_loop_lag_seconds_count") > 0
