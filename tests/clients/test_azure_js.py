"""@azure-rest/ai-inference under Node: the published JavaScript calls, and what errors become."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..http.parrot import ParrotServer
from ..http.pictures import data_url, plain_png
from ..http.running_server import Endpoint, RunningServer, assert_well
from .client_process import ClientProcess, ThrownError
from .conftest import POLYGLOT
from .node import node_client

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "How many languages are in the world?"},
]
GREEDY = {"messages": MESSAGES, "temperature": 0, "top_p": 1, "max_tokens": 20}


@pytest.fixture(scope="module")
def js() -> Iterator[ClientProcess]:
    with node_client("azure.mjs") as client:
        yield client


def test_the_model_introduces_itself(js: ClientProcess, base_url: str) -> None:
    info = js("info", base_url)
    assert info == {
        "model_name": "phi3v-demo",
        "model_type": "chat-completions",
        "model_provider_name": "phi3v-server",
        "notice": info["notice"],
    }


def test_a_chat_is_answered_with_its_usage(js: ClientProcess, base_url: str) -> None:
    answer = js("complete", base_url, body={"messages": MESSAGES, "max_tokens": 8, "seed": 1})
    assert answer["choices"][0]["message"]["content"]
    assert answer["model"] == "phi3v-demo"
    usage = answer["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


def test_a_stream_says_what_a_whole_answer_says(
    js: ClientProcess, keyed: RunningServer, base_url: str
) -> None:
    whole = keyed.post(GREEDY).json()["choices"][0]["message"]["content"]
    pieces = js("stream", base_url, body=GREEDY)
    assert len(pieces) > 2
    assert "".join(pieces) == whole
    assert js("complete", base_url, body=GREEDY)["choices"][0]["message"]["content"] == whole


def test_characters_of_several_bytes_arrive_whole(
    js: ClientProcess, parrot: ParrotServer, way_to: Callable[[Endpoint], str]
) -> None:
    address, body = way_to(parrot), {"messages": [{"role": "user", "content": POLYGLOT}]}
    assert js("complete", address, body=body)["choices"][0]["message"]["content"] == POLYGLOT
    assert "".join(js("stream", address, body=body)) == POLYGLOT


def test_more_parameters_some_in_strings(js: ClientProcess, base_url: str) -> None:
    def answer(presence: Any, frequency: Any) -> str:
        body = GREEDY | {
            "presence_penalty": presence,
            "frequency_penalty": frequency,
            "stop": ["<|endoftext|>"],
            "response_format": {"type": "text"},
        }
        return str(js("complete", base_url, body=body)["choices"][0]["message"]["content"])

    assert answer("0.1", "0.8") == answer(0.1, 0.8)


@pytest.mark.parametrize("name", ["extra-params", "extra-parameters"])
def test_extra_parameters_are_let_through(js: ClientProcess, base_url: str, name: str) -> None:
    """The how-to's name of the header, and the reference's."""
    body = {"messages": MESSAGES, "max_tokens": 4, "temperature": 0, "logprobs": True}
    answer = js("complete", base_url, body=body, headers={name: "pass-through"})
    logprobs = answer["choices"][0]["logprobs"]["content"]
    assert len(logprobs) == answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("key", ["image", "image_url"])
def test_a_picture_is_answered(
    js: ClientProcess, keyed: RunningServer, base_url: str, key: str
) -> None:
    """The how-to's name of the picture, and the reference's."""
    picture = {"type": "image_url", key: {"url": data_url(plain_png(60, 40))}}
    content = [{"type": "text", "text": "Which conclusion can be extracted?"}, picture]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
    assert js("complete", base_url, body=body)["usage"]["prompt_tokens"] > 100
    assert_well(keyed)


# Errors


def test_what_the_model_cannot_do_is_told_as_the_how_to_reads_it(
    js: ClientProcess, keyed: RunningServer, base_url: str
) -> None:
    body = {"messages": MESSAGES, "tool_choice": "auto"}
    with pytest.raises(ThrownError) as refused:
        js("complete", base_url, body=body)
    error = refused.value.fields
    assert (error["status"], error["code"]) == ("422", "parameter_not_supported")
    assert error["param"] == "tool_choice"
    assert "tools" in error["message"]
    assert_well(keyed)


def test_an_unknown_parameter_is_told(js: ClientProcess, base_url: str) -> None:
    with pytest.raises(ThrownError) as refused:
        js("complete", base_url, body={"messages": MESSAGES, "logprobs": True})
    assert (refused.value.fields["status"], refused.value.fields["code"]) == (
        "400",
        "unknown_parameter",
    )


def test_a_wrong_key_is_unexpected(js: ClientProcess, base_url: str) -> None:
    with pytest.raises(ThrownError) as refused:
        js("complete", base_url, key="wrong", body={"messages": MESSAGES})
    assert refused.value.fields["status"] == "401"
    assert refused.value.fields["code"] == "unauthorized"


def test_a_route_that_is_not_there_is_unexpected(js: ClientProcess, base_url: str) -> None:
    with pytest.raises(ThrownError) as refused:
        js("elsewhere", base_url)
    assert refused.value.fields["status"] == "404"
    assert "POST /chat/completions" in refused.value.fields["message"]


def test_a_stream_that_fails_midway_raises(
    js: ClientProcess, failing: Endpoint, way_to: Callable[[Endpoint], str]
) -> None:
    body = {"messages": [{"role": "user", "content": "letters " * 10}]}
    with pytest.raises(ThrownError) as broken:
        js("stream", way_to(failing), body=body)
    assert "aborted" in broken.value.fields["message"]
    assert_well(failing)
