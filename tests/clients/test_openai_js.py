"""OpenAI's client for Node: whole and streamed answers, models, errors."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..http.parrot import ParrotServer
from ..http.pictures import data_url, plain_png
from ..http.running_server import Endpoint, RunningServer, assert_well
from .client_process import ClientProcess, ThrownError
from .conftest import POLYGLOT, RequestCount
from .node import node_client

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "How many languages are in the world?"},
]
GREEDY: dict[str, Any] = {
    "model": "azureai",
    "messages": MESSAGES,
    "temperature": 0,
    "max_tokens": 20,
}


@pytest.fixture(scope="module")
def js() -> Iterator[ClientProcess]:
    with node_client("openai.mjs") as client:
        yield client


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_a_stream_says_what_a_whole_answer_says(
    js: ClientProcess, keyed: RunningServer, base_url: str
) -> None:
    whole = text_of(keyed.post(GREEDY).json())
    assert text_of(js("complete", base_url, body=GREEDY)) == whole
    assert text_of(js("gathered", base_url, body=GREEDY)) == whole
    streamed = js("stream", base_url, body=GREEDY)
    assert "".join(streamed["pieces"]) == whole
    assert streamed["usage"] is None


def test_a_stream_tells_its_usage_when_asked(js: ClientProcess, base_url: str) -> None:
    body = GREEDY | {"stream_options": {"include_usage": True}}
    usage = js("stream", base_url, body=body)["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


def test_characters_of_several_bytes_arrive_whole(
    js: ClientProcess, parrot: ParrotServer, way_to: Callable[[Endpoint], str]
) -> None:
    address = way_to(parrot)
    body = {"model": "x", "messages": [{"role": "user", "content": POLYGLOT}]}
    assert text_of(js("complete", address, body=body)) == POLYGLOT
    assert "".join(js("stream", address, body=body)["pieces"]) == POLYGLOT


def test_parameters_are_taken_plainly(js: ClientProcess, base_url: str) -> None:
    extras = {"logprobs": True, "top_logprobs": 2, "top_k": 4, "max_completion_tokens": 6}
    body = {"model": "x", "messages": MESSAGES, **extras}
    answer = js("complete", base_url, body=body)
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert len(tokens) == answer["usage"]["completion_tokens"] <= 6
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)


def test_a_picture_is_answered(js: ClientProcess, base_url: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(plain_png(60, 40))}}
    content = [{"type": "text", "text": "What?"}, picture]
    body = GREEDY | {"messages": [{"role": "user", "content": content}]}
    answer = js("complete", base_url, body=body)
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] > 0


def test_the_models_are_listed(js: ClientProcess, base_url: str) -> None:
    (model,) = js("models", base_url)
    assert (model["id"], model["object"]) == ("phi3v-demo", "model")
    assert js("model", base_url, name=model["id"])["id"] == model["id"]
    with pytest.raises(ThrownError) as missing:
        js("model", base_url, name="gpt-4o")
    assert missing.value.fields["status"] == 404


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"temperature": 3}, "invalid_parameter", "temperature"),
        ({"tools": [{}]}, "parameter_not_supported", "tools"),
    ],
    ids=["range", "tools"],
)
def test_what_the_caller_did_wrong_is_told_and_asked_once(
    js: ClientProcess,
    keyed: RunningServer,
    base_url: str,
    requests: RequestCount,
    parameters: dict[str, Any],
    code: str,
    param: str,
) -> None:
    with pytest.raises(ThrownError) as refused:
        js("complete", base_url, body=GREEDY | parameters)
    error = refused.value.fields
    assert (error["status"], error["code"], error["param"]) == (422, code, param)
    assert requests.is_exactly(1)
    assert_well(keyed)


def test_a_wrong_key_is_an_authentication_error(js: ClientProcess, base_url: str) -> None:
    with pytest.raises(ThrownError) as refused:
        js("complete", base_url, key="wrong", body=GREEDY)
    assert (refused.value.fields["status"], refused.value.fields["code"]) == (401, "unauthorized")


def test_a_stream_that_fails_midway_raises(
    js: ClientProcess, failing: Endpoint, way_to: Callable[[Endpoint], str]
) -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": "letters " * 10}]}
    with pytest.raises(ThrownError) as broken:
        js("stream", way_to(failing), body=body)
    assert broken.value.fields["code"] == "generation_failed"
    assert "secret" not in str(broken.value)
    assert_well(failing)
