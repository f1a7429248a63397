"""What the log says of a request, in which form, and what it keeps to itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .event_streams import EventStream
from .pictures import data_url, plain_png
from .running_server import RunningServer, ready_server, user, wait_until

CANARY = "canary in a coal mine"


@pytest.fixture(scope="module")
def talkative(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """One that logs prompts."""
    flags = ("--log-prompts", "--no-engine-process")
    with ready_server(logs / "prompts.log", demo_checkpoint, *flags) as server:
        yield server


def line_of(server: RunningServer, client_id: str) -> dict[str, Any]:
    def lines() -> list[str]:
        return [line for line in server.log.splitlines() if f'"client": "{client_id}"' in line]

    (line,) = wait_until(lines, 5, "the request is logged")
    return dict(json.loads(line))


def test_every_line_is_a_json_object(demo: RunningServer) -> None:
    demo.text("hi", max_tokens=1)
    for line in demo.log.splitlines():
        entry = json.loads(line)
        assert {"time", "level", "logger", "message"} <= entry.keys()
        assert entry["time"].endswith("+00:00")


def test_a_request_is_one_line_with_ids_counts_and_stages(demo: RunningServer) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(plain_png(60, 90))}}
    body = {
        "messages": [{"role": "user", "content": [picture, {"type": "text", "text": CANARY}]}],
        "max_tokens": 3,
    }
    answer = demo.post(body, x_ms_client_request_id="one-line", x_request_id="its-id")
    usage = answer.json()["usage"]
    line = line_of(demo, "one-line")
    assert line["message"] == "POST /chat/completions"
    assert line["status"] == 200
    assert line["id"] == "its-id"
    assert line["completion"] == answer.json()["id"]
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["image_tokens"] == usage["prompt_tokens_details"]["image_tokens"]
    assert line["completion_tokens"] == usage["completion_tokens"]
    assert line["finish_reason"] == answer.json()["choices"][0]["finish_reason"]
    stages = ["validate", "decode_images", "queue", "encode_images", "prefill", "decode"]
    assert list(line["stages_ms"]) == stages
    assert sum(line["stages_ms"].values()) <= line["ms"] + 0.1
    assert CANARY not in demo.log


def test_the_answer_tells_its_stages_in_server_timing(demo: RunningServer) -> None:
    timing = demo.ask("hi", max_tokens=2).headers["server-timing"]
    names = [part.split(";dur=")[0] for part in timing.split(", ")]
    assert names == ["validate", "tokenize", "queue", "prefill", "decode"]
    assert all(float(part.split(";dur=")[1]) >= 0 for part in timing.split(", "))
    streamed = demo.ask("hi", max_tokens=2, stream=True).headers["server-timing"]
    assert streamed.startswith("validate;dur="), "what is over when the first byte leaves"
    assert "server-timing" not in demo.get("/info").headers


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/chat/completions", {}),
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"include_usage": True}),
    ],
)
def test_a_stream_tells_its_timings_at_its_end_if_asked_to(
    demo: RunningServer, path: str, options: dict[str, bool]
) -> None:
    body = {"messages": [user("hi")], "max_tokens": 3, "stream": True}
    body["stream_options"] = {"include_timings": True, **options}
    with demo.client(headers={"extra-parameters": "pass-through"}) as client:
        *others, last = EventStream(client.post(path, json=body).content).chunks
        assert all("timings_ms" not in event for event in others)
        assert last["timings_ms"].keys() == {"validate", "tokenize", "queue", "prefill", "decode"}
        body["stream_options"] = options
        assert "timings_ms" not in client.post(path, json=body).text


def test_prompts_are_logged_where_that_is_asked_for_and_pictures_as_a_hash(
    talkative: RunningServer,
) -> None:
    url = data_url(plain_png(50, 50))
    picture = {"type": "image_url", "image_url": {"url": url}}
    talkative.ask([picture, {"type": "text", "text": CANARY}], max_tokens=1)
    (line,) = [line for line in talkative.log.splitlines() if CANARY in line]
    (message,) = json.loads(line)["messages"]
    shown, text = message["content"]
    assert text == CANARY
    assert shown.startswith(f"image of {len(url)} base64 bytes, sha256 ")
    assert url[40:80] not in talkative.log
    assert "what users write is logged" in talkative.log


def test_text_is_for_people(demo_checkpoint: Path, logs: Path) -> None:
    flags = ("--log-format", "text")
    with ready_server(logs / "text.log", demo_checkpoint, *flags) as server:
        server.post({"messages": [user("hi")], "max_tokens": 1}, x_ms_client_request_id="mine")
        (line,) = wait_until(
            lambda: [x for x in server.log.splitlines() if "client=mine" in x], 5, "it is logged"
        )
        assert " I server.observer: POST /chat/completions status=200 ms=" in line
        assert " stages_ms.prefill=" in line
        assert " I scoring." in server.log, "the engine's process logs alike"
