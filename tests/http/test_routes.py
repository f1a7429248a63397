"""Every name that clients know the API by, and what is said about those that are not there."""

from typing import Any

import pytest

from .error_bodies import assert_error
from .event_streams import EventStream
from .parrot import ParrotServer
from .running_server import RunningServer, assert_well, user

AZURE = ("", "/models", "/score")
OPENAI = ("/v1", "/openai/v1", "/score/v1")
DEPLOYMENT = "/openai/deployments/{}/chat/completions"
CHATS = [f"{prefix}/chat/completions" for prefix in (*AZURE, *OPENAI)]
CHATS += [DEPLOYMENT.format(name) for name in ("gpt-4o", "phi-3", "a.b_c")] + ["/score"]
API_VERSIONS = ("", "?api-version=2024-05-01-preview", "?api-version=2025-04-01", "?api-version=x")


def body(text: str = "hi", **parameters: Any) -> dict[str, Any]:
    return {"messages": [user(text)], "temperature": 0} | parameters


@pytest.mark.parametrize("api_version", API_VERSIONS)
@pytest.mark.parametrize("path", CHATS)
def test_a_chat_is_answered_under_every_name(
    parrot: ParrotServer, path: str, api_version: str
) -> None:
    response = parrot.request("POST", path + api_version, json=body())
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "hi"
    streamed = parrot.request("POST", path + api_version, json=body(stream=True))
    assert EventStream(streamed.content).text == "hi"


@pytest.mark.parametrize("prefix", AZURE)
def test_the_model_is_introduced_under_every_name(demo: RunningServer, prefix: str) -> None:
    assert demo.get(f"{prefix}/info").json() == demo.get("/info").json()


@pytest.mark.parametrize("path", [f"{prefix}/chat/completions" for prefix in AZURE] + ["/score"])
def test_azures_routes_judge_extra_parameters(parrot: ParrotServer, path: str) -> None:
    response = parrot.request("POST", path, json=body(logprobs=True))
    assert_error(response, 400, "unknown_parameter", "logprobs")
    headers = {"extra-parameters": "pass-through"}
    response = parrot.request("POST", path, json=body(logprobs=True, top_k=1), headers=headers)
    assert response.status_code == 200
    assert response.json()["choices"][0]["logprobs"] is not None


OPENAIS = [f"{prefix}/chat/completions" for prefix in OPENAI] + [DEPLOYMENT.format("x")]


@pytest.mark.parametrize("path", OPENAIS)
def test_openais_routes_take_everything_plainly(parrot: ParrotServer, path: str) -> None:
    """Theirs, ours, and what only OpenAI's own service needs; no header is asked for or judged."""
    extras = {
        "logprobs": True,
        "n": 1,
        "top_k": 5,
        "max_completion_tokens": 1,
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "functions": None,
    }
    headers = {"extra-parameters": "error"}
    response = parrot.request("POST", path, json=body(**extras), headers=headers)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("h", "length")
    assert choice["logprobs"] is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{"name": "look"}]),
        ("function_call", "auto"),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("best_of", 2),
        ("web_search_options", {}),
        ("modalities", ["text", "audio"]),
        ("tools", [{"type": "function", "function": {"name": "look"}}]),
    ],
)
def test_openais_routes_never_ignore_what_would_change_the_answer(
    parrot: ParrotServer, name: str, value: Any
) -> None:
    response = parrot.request("POST", "/v1/chat/completions", json=body(**{name: value}))
    assert_error(response, 422, "parameter_not_supported", name)


@pytest.mark.parametrize("path", OPENAIS)
def test_openais_streams_tell_the_usage_when_asked(parrot: ParrotServer, path: str) -> None:
    """In a last chunk of its own, without a choice; in the others it is null."""

    def chunks(**parameters: Any) -> list[dict[str, Any]]:
        response = parrot.request("POST", path, json=body(stream=True, **parameters))
        assert response.status_code == 200, response.text
        return EventStream(response.content).chunks

    asked = chunks(stream_options={"include_usage": True})
    *others, last = asked
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in others)
    assert {chunk["id"] for chunk in asked} == {last["id"]}
    assert others[-1]["choices"][0]["finish_reason"] == "stop"
    for options in (None, {}, {"include_usage": False}, {"include_obfuscation": False}):
        plain = chunks(stream_options=options)
        assert all("usage" not in chunk and len(chunk["choices"]) == 1 for chunk in plain)


@pytest.mark.parametrize("path", [f"{prefix}/chat/completions" for prefix in AZURE] + ["/score"])
@pytest.mark.parametrize("include", [True, False])
def test_azures_streams_tell_the_usage_in_the_last_chunk(
    parrot: ParrotServer, path: str, include: bool
) -> None:
    """The how-to's loop reads choices[0] of every chunk."""
    headers = {"extra-parameters": "pass-through"}
    asked = body(stream=True, stream_options={"include_usage": include})
    response = parrot.request("POST", path, json=asked, headers=headers)
    chunks = EventStream(response.content).chunks
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert ["usage" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.parametrize("prefix", OPENAI)
def test_the_one_model_is_listed(demo: RunningServer, prefix: str) -> None:
    listed = demo.get(f"{prefix}/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert type(model.pop("created")) is int
    assert model == {"id": "phi3v-demo", "object": "model", "owned_by": "phi3v-server"}
    assert demo.get(f"{prefix}/models/phi3v-demo").json()["id"] == "phi3v-demo"
    for name in ("gpt-4o", "phi3v-demo/x", "..%2f..%2fetc%2fpasswd", "microsoft/Phi-3"):
        error = assert_error(demo.get(f"{prefix}/models/{name}"), 404, "not_found")
        assert "phi3v-demo" in error["message"]
        assert name not in error["message"]


# Routes that are not there


@pytest.mark.parametrize("prefix", ["", "/v1", "/score", "/models", "/openai/v1"])
@pytest.mark.parametrize("route", ["/embeddings", "/images/embeddings", "/completions"])
def test_another_modalitys_route_is_a_404_in_the_references_words(
    demo: RunningServer, prefix: str, route: str
) -> None:
    error = assert_error(demo.request("POST", prefix + route, json={}), 404, "not_found")
    assert error["message"].startswith("Modality not supported by the model. Check the")
    assert "POST /chat/completions" in error["message"]


@pytest.mark.parametrize("path", ["/nothing", "/canary", "/v1", "/chat", "/v2/chat/completion"])
def test_a_404_lists_the_routes_there_are(demo: RunningServer, path: str) -> None:
    error = assert_error(demo.request("POST", path, json={}), 404, "not_found")
    listed = error["message"].partition("There are: ")[2].split(", ")
    assert {"GET /info", "POST /chat/completions", "POST /score", "GET /v1/models"} <= set(listed)
    assert path not in [route.partition(" ")[2] for route in listed]
    assert "canary" not in error["message"]
    for route in listed:  # they are there indeed
        method, _, at = route.partition(" ")
        assert (
            demo.request(method, at.format(deployment="x", model="x", name="x")).status_code != 405
        )
    assert_well(demo)
