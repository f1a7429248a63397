"""The C# part of the published how-to. Without .NET its samples cannot run: what they make the
client send is sent, and answers are read by the rules of Azure.AI.Inference's readers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..http.running_server import RunningServer, assert_well
from .seed import blocks

# A property of ChatCompletionsOptions, and the parameter as which it is sent.
PROPERTIES = {
    "MaxTokens": "max_tokens",
    "StopSequences": "stop",
    "Temperature": "temperature",
    "NucleusSamplingFactor": "top_p",
}


def body_of(sample: str) -> dict[str, Any]:
    """The body of the sample's request. Lines that are comments send nothing."""
    code = re.sub(r"^\s*//.*$", "", sample, flags=re.MULTILINE)
    turns = re.findall(r'new ChatRequest(System|User)Message\("(.*?)"\)', code)
    body: dict[str, Any] = {
        "messages": [{"role": role.lower(), "content": text} for role, text in turns]
    }
    for name, value in re.findall(r"^    (\w+) = (\d+|\{ .* \}),$", code, re.MULTILINE):
        body[PROPERTIES[name]] = json.loads(value.replace("{", "[").replace("}", "]"))
    return body


@pytest.fixture(scope="module")
def requests_of(shared: Path) -> dict[str, dict[str, Any]]:
    """What the samples send: whole, streamed, with more parameters, with the header for extras."""
    samples = [b for b in blocks(shared / "seed.md", "csharp", "csharp") if "UserMessage(" in b]
    whole, streamed, more, extra = samples
    assert "client.Complete(" in whole
    assert "CompleteStreamingAsync(" in streamed
    assert "extraParams: ExtraParameters.PassThrough" in extra
    bodies = {
        "whole": body_of(whole),
        "streamed": body_of(streamed) | {"stream": True},
        "more": body_of(more),
        "extra": body_of(extra),
    }
    assert all(len(body["messages"]) == 2 for body in bodies.values())
    assert set(bodies["more"]) == {"messages", *PROPERTIES.values()}
    return bodies


def assert_readable(answer: dict[str, Any]) -> None:
    """Chat completions as .NET's deserialiser takes them: GetInt64, GetString and EnumerateArray
    throw on null and on another type."""
    assert type(answer["created"]) is int
    assert type(answer["id"]) is str
    assert type(answer["model"]) is str
    assert all(type(answer["usage"][f"{kind}_tokens"]) is int for kind in ("prompt", "total"))
    (choice,) = answer["choices"]
    assert type(choice["index"]) is int
    assert choice["finish_reason"] in ("stop", "length")
    assert choice["message"]["role"] == "assistant"
    assert type(choice["message"]["content"]) is str


def read_events(content: bytes) -> Iterator[dict[str, Any]]:
    """Each event is one line with the one field `data` and an empty line. The reader would wait
    for [DONE] for ever."""
    *events, done, rest = content.decode("ascii").split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for event in events:
        assert "\n" not in event
        name, _, data = event.partition(": ")
        assert name == "data"
        yield json.loads(data)


@pytest.mark.parametrize("name", ["whole", "more", "extra"])
def test_a_whole_answer_can_be_read(
    keyed: RunningServer, requests_of: dict[str, dict[str, Any]], name: str
) -> None:
    header = {"extra_parameters": "pass-through"} if name == "extra" else {}
    response = keyed.post(requests_of[name], **header)
    assert response.status_code == 200
    assert_readable(response.json())
    assert_well(keyed)


def test_a_stream_can_be_read(keyed: RunningServer, requests_of: dict[str, dict[str, Any]]) -> None:
    updates = list(read_events(keyed.post(requests_of["streamed"]).content))
    for update in updates:
        assert type(update["created"]) is int
        (choice,) = update["choices"]
        # GetString and EnumerateArray are called on whatever is there.
        assert None not in choice["delta"].values()
    assert updates[0]["choices"][0]["delta"]["role"] == "assistant"
    assert updates[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert_well(keyed)


def test_the_model_introduces_itself_with_three_strings(keyed: RunningServer) -> None:
    info = keyed.get("/info").json()
    names = ("model_name", "model_type", "model_provider_name")
    assert all(type(info[name]) is str for name in names)
