"""LangChain: langchain-openai on OpenAI's routes, and langchain-azure-ai on both kinds."""

from collections.abc import Callable, Iterator

import pytest

from ..http.parrot import ParrotServer
from ..http.pictures import image_part, plain_png
from ..http.running_server import Endpoint, RunningServer, assert_well
from .client_process import ClientProcess, ThrownError
from .conftest import POLYGLOT
from .own_venv import client_with

REQUIREMENTS = (
    "langchain-azure-ai==1.2.12",
    "langchain-openai==1.7.4",
    "azure-ai-inference==1.0.0b9",
)
TURNS = [
    ("system", "You are a helpful assistant."),
    ("user", "How many languages are in the world?"),
]
# Not a temperature of 0, which langchain-azure-ai takes for one that was not given.
SEEDED = {"seed": 7, "max_tokens": 20}


@pytest.fixture(scope="module")
def langchain() -> Iterator[ClientProcess]:
    with client_with(*REQUIREMENTS, script="langchain_chat.py") as client:
        yield client


@pytest.fixture(params=["openai", "azure_openai", "azure"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_stream_says_what_a_whole_answer_says(
    langchain: ClientProcess, keyed: RunningServer, base_url: str, model: str
) -> None:
    given = {"model": model, "turns": TURNS, "parameters": SEEDED}
    whole = langchain("invoke", base_url, **given)
    assert whole["text"]
    usage = whole["usage"]
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"]
    assert "".join(langchain("stream", base_url, **given)) == whole["text"]
    assert "".join(langchain("astream", base_url, **given)) == whole["text"]
    assert_well(keyed)


def test_characters_of_several_bytes_arrive_whole(
    langchain: ClientProcess,
    parrot: ParrotServer,
    way_to: Callable[[Endpoint], str],
    model: str,
) -> None:
    address, turns = way_to(parrot), [("user", POLYGLOT)]
    given = {"model": model, "turns": turns, "parameters": {}}
    assert langchain("invoke", address, **given)["text"] == POLYGLOT
    assert "".join(langchain("stream", address, **given)) == POLYGLOT


def test_a_picture_is_answered(
    langchain: ClientProcess, keyed: RunningServer, base_url: str, model: str
) -> None:
    content = [{"type": "text", "text": "What?"}, image_part(plain_png(60, 40))]
    given = {"model": model, "turns": [("user", content)], "parameters": SEEDED}
    assert langchain("invoke", base_url, **given)["usage"]["input_tokens"] > 100
    assert_well(keyed)


def test_structured_output_is_kept(
    langchain: ClientProcess, keyed: RunningServer, base_url: str, model: str
) -> None:
    """A random model would not say JSON of a given shape by itself."""
    given = {"model": model, "turns": TURNS, "parameters": {"temperature": 1.0}}
    languages = langchain("structured", base_url, **given)
    assert type(languages["number"]) is int
    assert type(languages["sure"]) is bool
    assert_well(keyed)


def test_an_error_is_told(langchain: ClientProcess, base_url: str, model: str) -> None:
    given = {"model": model, "turns": TURNS, "parameters": {"temperature": 3.0}}
    with pytest.raises(ThrownError) as refused:
        langchain("invoke", base_url, **given)
    assert refused.value.fields["status_code"] == 422
    assert "temperature" in refused.value.fields["message"]
