"""OpenAI's Python client over a real socket: whole, streamed and asynchronous answers, models,
errors; and its Azure client, which asks for a deployment."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import (
    APIError,
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    AzureOpenAI,
    BadRequestError,
    NotFoundError,
    OpenAI,
    UnprocessableEntityError,
)

from ..http.parrot import ParrotServer
from ..http.pictures import data_url, plain_png
from ..http.running_server import Endpoint, RunningServer, assert_well
from .conftest import KEY, POLYGLOT, RequestCount

MESSAGES: Any = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "How many languages are in the world?"},
]
GREEDY: Any = {"model": "azureai", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}


@pytest.fixture(params=["/v1", "/openai/v1", "/score/v1", "/v1/"])
def openai(request: pytest.FixtureRequest, base_url: str) -> Iterator[OpenAI]:
    """The client, as its user makes it."""
    with OpenAI(base_url=base_url + request.param, api_key=KEY) as client:
        yield client


@pytest.fixture
def v1(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{base_url}/v1", api_key=KEY) as client:
        yield client


def test_a_chat_is_answered_with_its_usage(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(**GREEDY)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.model == "phi3v-demo"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens == answer.usage.total_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens is not None


def test_a_stream_says_what_a_whole_answer_says(openai: OpenAI) -> None:
    whole = openai.chat.completions.create(**GREEDY)
    chunks = list(openai.chat.completions.create(**GREEDY, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert all(chunk.usage is None for chunk in chunks)


def test_characters_of_several_bytes_arrive_whole(
    parrot: ParrotServer, way_to: Callable[[Endpoint], str]
) -> None:
    request: Any = {"model": "x", "messages": [{"role": "user", "content": POLYGLOT}]}
    with OpenAI(base_url=f"{way_to(parrot)}/v1", api_key=KEY) as client:
        whole = client.chat.completions.create(**request)
        assert whole.choices[0].message.content == POLYGLOT
        chunks = client.chat.completions.create(**request, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == POLYGLOT


def test_a_stream_tells_its_usage_when_asked(v1: OpenAI) -> None:
    options: Any = {"include_usage": True}
    *others, last = v1.chat.completions.create(**GREEDY, stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens >= 1
    assert all(chunk.usage is None and chunk.choices for chunk in others)


def test_the_stream_helper_gathers_an_answer(v1: OpenAI) -> None:
    whole = v1.chat.completions.create(**GREEDY)
    with v1.chat.completions.stream(**GREEDY) as stream:
        for _ in stream:
            pass
        gathered = stream.current_completion_snapshot
    assert gathered.choices[0].message.content == whole.choices[0].message.content


def test_parameters_are_taken_plainly(v1: OpenAI) -> None:
    answer = v1.chat.completions.create(
        model="gpt-4o",
        messages=MESSAGES,
        max_completion_tokens=6,
        logprobs=True,
        top_logprobs=2,
        n=1,
        seed=3,
        stop=["zzz"],
        logit_bias={"5": -10},
        presence_penalty=0.1,
        response_format={"type": "text"},
        user="somebody",
        extra_body={"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1},
    )
    assert answer.usage is not None
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 2 for token in logprobs.content)


def test_a_picture_is_answered(v1: OpenAI) -> None:
    image = {"url": data_url(plain_png(60, 40)), "detail": "low"}
    content: Any = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": image}]
    answer = v1.chat.completions.create(
        model="x", messages=[{"role": "user", "content": content}], max_tokens=4
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.model_dump()["image_tokens"] > 0


def test_the_models_are_listed(openai: OpenAI) -> None:
    (model,) = openai.models.list().data
    assert (model.id, model.object) == ("phi3v-demo", "model")
    assert openai.models.retrieve(model.id) == model
    with pytest.raises(NotFoundError):
        openai.models.retrieve("gpt-4o")


async def _ask_asynchronously(base_url: str) -> tuple[str, str]:
    async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key=KEY) as client:
        whole = await client.chat.completions.create(**GREEDY)
        pieces = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(**GREEDY, stream=True)
        ]
    return whole.choices[0].message.content or "", "".join(pieces)


def test_the_asynchronous_client_hears_the_same(base_url: str, v1: OpenAI) -> None:
    whole, streamed = asyncio.run(_ask_asynchronously(base_url))
    assert whole == streamed == v1.chat.completions.create(**GREEDY).choices[0].message.content


def test_the_azure_client_finds_its_deployment(base_url: str, v1: OpenAI) -> None:
    expected = v1.chat.completions.create(**GREEDY).choices[0].message.content
    with AzureOpenAI(azure_endpoint=base_url, api_key=KEY, api_version="2024-10-21") as client:
        answer = client.chat.completions.create(**GREEDY | {"model": "my-deployment"})
        assert answer.choices[0].message.content == expected
        chunks = client.chat.completions.create(**GREEDY, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected


# Errors


def test_a_wrong_key_is_an_authentication_error(keyed: RunningServer) -> None:
    with (
        OpenAI(base_url=f"{keyed.base_url}/v1", api_key="wrong") as client,
        pytest.raises(AuthenticationError) as refused,
    ):
        client.chat.completions.create(**GREEDY)
    assert refused.value.code == "unauthorized"


@pytest.mark.parametrize(
    ("parameters", "error", "code", "param"),
    [
        ({"temperature": 3}, UnprocessableEntityError, "invalid_parameter", "temperature"),
        ({"n": 2}, UnprocessableEntityError, "invalid_parameter", "n"),
        ({"messages": []}, UnprocessableEntityError, "invalid_parameter", "messages"),
        ({"tools": [{}]}, UnprocessableEntityError, "parameter_not_supported", "tools"),
        (
            {"messages": [{"role": "user", "content": "x" * 9000}]},
            BadRequestError,
            "context_length_exceeded",
            None,
        ),
    ],
    ids=["range", "n", "empty", "tools", "too long"],
)
def test_what_the_caller_did_wrong_is_told_and_asked_once(
    v1: OpenAI,
    keyed: RunningServer,
    requests: RequestCount,
    parameters: dict[str, Any],
    error: type[APIStatusError],
    code: str,
    param: str | None,
) -> None:
    with pytest.raises(error) as refused:
        v1.chat.completions.create(**GREEDY | parameters)
    assert (refused.value.code, refused.value.param) == (code, param)
    assert refused.value.type == "invalid_request_error"
    assert requests.is_exactly(1)
    assert_well(keyed)


def test_another_modality_is_not_found(v1: OpenAI, requests: RequestCount) -> None:
    with pytest.raises(NotFoundError, match="Modality not supported by the model"):
        v1.embeddings.create(model="x", input="hi")
    with pytest.raises(NotFoundError, match="Modality not supported by the model"):
        v1.completions.create(model="x", prompt="hi")
    assert requests.is_exactly(2)


def test_a_stream_that_fails_midway_raises(
    failing: Endpoint, way_to: Callable[[Endpoint], str]
) -> None:
    heard: list[str] = []
    messages: Any = [{"role": "user", "content": "letters " * 10}]
    with OpenAI(base_url=f"{way_to(failing)}/v1", api_key="any") as client:
        chunks = client.chat.completions.create(model="x", messages=messages, stream=True)
        pieces = (chunk.choices[0].delta.content or "" for chunk in chunks)
        with pytest.raises(APIError) as broken:
            heard.extend(pieces)
    assert "".join(heard) == "letter"
    assert broken.value.code == "generation_failed"
    assert "secret" not in json.dumps(broken.value.body)
    assert_well(failing)
