"""azure-ai-inference 1.0.0b1: it sends another header for extra parameters and a bare word for a
response format, and cannot join a character that is cut in two."""

from collections.abc import Callable, Iterator

import pytest

from ..http.parrot import ParrotServer
from ..http.running_server import Endpoint, RunningServer, assert_well
from .client_process import ClientProcess, ThrownError
from .conftest import POLYGLOT
from .own_venv import azure_python, client_with

TURNS = [
    ("system", "You are a helpful assistant."),
    ("user", "How many languages are in the world?"),
]
GREEDY = {"temperature": 0, "top_p": 1, "max_tokens": 20}


@pytest.fixture(scope="module")
def b1() -> Iterator[ClientProcess]:
    with client_with(*azure_python("1.0.0b1"), script="azure_b1.py") as client:
        yield client


def test_the_model_introduces_itself(b1: ClientProcess, base_url: str) -> None:
    info = b1("info", base_url)
    assert info == {
        "model_name": "phi3v-demo",
        "model_type": "chat-completions",
        "model_provider_name": "phi3v-server",
        "notice": info["notice"],
    }


def test_a_stream_says_what_a_whole_answer_says(
    b1: ClientProcess, keyed: RunningServer, base_url: str
) -> None:
    whole = b1("complete", base_url, turns=TURNS, parameters=GREEDY)
    pieces = b1("stream", base_url, turns=TURNS, parameters=GREEDY)
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert len(pieces) > 2
    usage = whole["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert_well(keyed)


def test_characters_of_several_bytes_arrive_whole(
    b1: ClientProcess, parrot: ParrotServer, way_to: Callable[[Endpoint], str]
) -> None:
    """It decodes each block of bytes by itself, so that a character cut in two would raise."""
    address, turns = way_to(parrot), [("user", POLYGLOT)]
    whole = b1("complete", address, turns=turns)
    assert whole["choices"][0]["message"]["content"] == POLYGLOT
    assert "".join(b1("stream", address, turns=turns)) == POLYGLOT


def test_extra_parameters_are_let_through(b1: ClientProcess, base_url: str) -> None:
    """Its header is `unknown-parameters: pass_through`."""
    extras = {"max_tokens": 4, "model_extras": {"logprobs": True}}
    answer = b1("complete", base_url, turns=TURNS, parameters=extras)
    logprobs = answer["choices"][0]["logprobs"]["content"]
    assert len(logprobs) == answer["usage"]["completion_tokens"]


def test_a_response_format_may_be_a_bare_word(b1: ClientProcess, base_url: str) -> None:
    plain = b1("complete", base_url, turns=TURNS, parameters=GREEDY)
    as_text = b1("complete_as_text", base_url, turns=TURNS, parameters=GREEDY)
    assert as_text["choices"] == plain["choices"]


def test_a_wrong_key_is_an_authentication_error(b1: ClientProcess, base_url: str) -> None:
    with pytest.raises(ThrownError) as refused:
        b1("complete", base_url, key="wrong", turns=TURNS)
    assert refused.value.fields["name"] == "ClientAuthenticationError"


def test_a_stream_that_fails_midway_raises(
    b1: ClientProcess, failing: Endpoint, way_to: Callable[[Endpoint], str]
) -> None:
    """Its error is the loop's own: the error event has no `choices[0]`, and says what is wrong to
    those who look."""
    with pytest.raises(ThrownError) as broken:
        b1("stream", way_to(failing), turns=[("user", "letters " * 10)])
    assert broken.value.fields["name"] == "IndexError"
    assert_well(failing)
