"""azure-ai-inference over a real socket: the published Python calls, and what errors become."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema
import pytest
from azure.ai.inference import (
    ChatCompletionsClient,
    EmbeddingsClient,
    ImageEmbeddingsClient,
    load_client,
)
from azure.ai.inference.models import (
    AssistantMessage,
    ChatCompletionsToolChoicePreset,
    ImageContentItem,
    ImageEmbeddingInput,
    ImageUrl,
    JsonSchemaFormat,
    SystemMessage,
    TextContentItem,
    UserMessage,
)
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)

from ..http.parrot import Parrot, ParrotServer, parrot_server
from ..http.pictures import data_url, plain_png
from ..http.running_server import Endpoint, RunningServer, assert_well, wait_until
from ..json_schemas import SCHEMAS
from .conftest import KEY, POLYGLOT, RequestCount
from .seed import blocks

MESSAGES = [
    SystemMessage(content="You are a helpful assistant."),
    UserMessage(content="How many languages are in the world?"),
]


def client_at(base_url: str, key: str = KEY) -> ChatCompletionsClient:
    return ChatCompletionsClient(base_url, AzureKeyCredential(key))


# The calls of the how-to


def test_the_model_introduces_itself(client: ChatCompletionsClient) -> None:
    info = client.get_model_info()
    assert info.model_name == "phi3v-demo"
    assert info.model_type == "chat-completions"
    assert info.model_provider_name == "phi3v-server"


def test_load_client_finds_out_which_client_it_takes(base_url: str) -> None:
    with load_client(base_url, AzureKeyCredential(KEY)) as client:
        assert isinstance(client, ChatCompletionsClient)
        assert client.complete(messages=MESSAGES, max_tokens=2).choices


def test_a_chat_is_answered_with_its_usage(client: ChatCompletionsClient) -> None:
    # Without a seed, one answer in hundreds would end before it begins.
    response = client.complete(messages=MESSAGES, seed=1)
    assert response.choices[0].message.content
    assert response.choices[0].message.role == "assistant"
    assert response.choices[0].message.tool_calls is None
    assert response.choices[0].finish_reason in ("stop", "length")
    assert response.model == "phi3v-demo"
    usage = response.usage
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens
    assert len(response.id) == 32
    assert response.created.year >= 2024


@pytest.fixture(scope="module")
def print_stream(shared: Path) -> Callable[[Any], None]:
    """The how-to's own helper, unchanged."""
    (source,) = (
        b for b in blocks(shared / "seed.md", "python", "python") if "def print_stream" in b
    )
    names: dict[str, Any] = {}
    exec(source, names)
    return names["print_stream"]  # type: ignore[no-any-return]


def test_a_stream_prints_what_a_whole_answer_says(
    client: ChatCompletionsClient,
    keyed: RunningServer,
    print_stream: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    parameters: dict[str, Any] = {"temperature": 0, "top_p": 1, "max_tokens": 20}
    whole = client.complete(messages=MESSAGES, **parameters)
    print_stream(client.complete(messages=MESSAGES, stream=True, **parameters))
    printed = capsys.readouterr().out
    assert printed == whole.choices[0].message.content
    assert "None" not in printed
    turns = {"messages": [message.as_dict() for message in MESSAGES]}
    assert printed == keyed.post(turns | parameters).json()["choices"][0]["message"]["content"]


def test_characters_of_several_bytes_arrive_whole(
    parrot: ParrotServer, way_to: Callable[[Endpoint], str]
) -> None:
    turns = [UserMessage(POLYGLOT)]
    with client_at(way_to(parrot)) as client:
        assert client.complete(messages=turns).choices[0].message.content == POLYGLOT
        updates = client.complete(messages=turns, stream=True)
        assert "".join(update.choices[0].delta.content for update in updates) == POLYGLOT


def test_every_update_of_a_stream_can_be_read_as_the_how_to_does(
    client: ChatCompletionsClient,
) -> None:
    with client.complete(messages=MESSAGES, stream=True, max_tokens=8) as updates:
        seen = list(updates)
    assert all(update.choices[0].delta.content is not None for update in seen)
    assert {update.id for update in seen} == {seen[0].id}
    assert seen[0].choices[0].delta.role == "assistant"
    assert [update.usage is not None for update in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].choices[0].finish_reason in ("stop", "length")
    assert seen[-1].usage.completion_tokens <= 8


def test_more_parameters(client: ChatCompletionsClient) -> None:
    response = client.complete(
        messages=MESSAGES,
        presence_penalty=0.1,
        frequency_penalty=0.8,
        max_tokens=64,
        stop=["<|endoftext|>"],
        temperature=0,
        top_p=1,
        seed=4,
        response_format="text",
    )
    assert response.choices[0].message.content


def test_extra_parameters_are_let_through(client: ChatCompletionsClient) -> None:
    response = client.complete(
        messages=MESSAGES, max_tokens=4, temperature=0, model_extras={"logprobs": True}
    )
    assert response.choices[0].message.content is not None
    assert len(response.choices[0]["logprobs"]["content"]) == response.usage.completion_tokens


def test_an_extra_parameter_can_be_dropped(client: ChatCompletionsClient) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "safe_mode": True, "max_tokens": 2}
    response = client.complete(body, headers={"extra-parameters": "drop"})
    assert response.choices


def test_a_picture_is_answered(client: ChatCompletionsClient) -> None:
    image = ImageUrl(url=data_url(plain_png(60, 40)), detail="auto")
    response = client.complete(
        messages=[
            SystemMessage(
                "You are a helpful assistant that can generate responses based on images."
            ),
            UserMessage(
                content=[
                    TextContentItem(text="Which conclusion can be extracted from the chart?"),
                    ImageContentItem(image_url=image),
                ]
            ),
        ],
        temperature=0,
        top_p=1,
        max_tokens=64,
    )
    assert response.choices[0].message.content
    assert response.usage.prompt_tokens > 100


def test_a_picture_from_a_file_is_answered(client: ChatCompletionsClient, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(plain_png(30, 20))
    image = ImageUrl.load(image_file=str(file), image_format="jpeg")  # the caller's word for it
    message = UserMessage(content=[ImageContentItem(image_url=image)])
    assert client.complete(messages=[message], max_tokens=4).choices


def test_a_conversation_goes_on(client: ChatCompletionsClient) -> None:
    first = client.complete(messages=MESSAGES, max_tokens=8)
    turns = [*MESSAGES, AssistantMessage(first.choices[0].message.content), UserMessage("And?")]
    second = client.complete(messages=turns, max_tokens=8)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_an_endpoint_may_end_with_a_slash(base_url: str) -> None:
    with client_at(f"{base_url}/") as client:
        assert client.get_model_info().model_name == "phi3v-demo"
        assert client.complete(messages=MESSAGES, max_tokens=2).choices


@pytest.mark.parametrize("path", ["/score", "/score/", "/models"])
def test_an_endpoint_may_be_given_as_its_scoring_address(keyed: RunningServer, path: str) -> None:
    """Azure ML shows …/score, and the SDK puts its own paths behind that."""
    with client_at(keyed.base_url + path) as client:
        assert client.get_model_info().model_name == "phi3v-demo"
        assert client.complete(messages=MESSAGES, max_tokens=2).choices


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("embeddings", lambda client: client.embed(input=["hi"])),
        (
            "images/embeddings",
            lambda client: client.embed(input=[ImageEmbeddingInput(image="data:,")]),
        ),
    ],
)
def test_a_client_of_another_modality_is_told_so(
    keyed: RunningServer, requests: RequestCount, name: str, ask: Callable[[Any], Any]
) -> None:
    kind = EmbeddingsClient if name == "embeddings" else ImageEmbeddingsClient
    with (
        kind(keyed.base_url, AzureKeyCredential(KEY)) as client,
        pytest.raises(ResourceNotFoundError) as refused,
    ):
        ask(client)
    assert "Modality not supported by the model" in refused.value.message
    assert requests.is_exactly(1)


# Errors


def test_a_wrong_key_is_an_authentication_error_and_asked_once(
    keyed: RunningServer, base_url: str, requests: RequestCount
) -> None:
    with (
        client_at(base_url, "wrong") as client,
        pytest.raises(ClientAuthenticationError) as refused,
    ):
        client.complete(messages=MESSAGES)
    assert refused.value.status_code == 401
    assert refused.value.error is not None
    assert refused.value.error.code == "unauthorized"
    assert requests.is_exactly(1)
    assert_well(keyed)


INVOICE = SCHEMAS["an invoice"]
INVOICE_FORMAT = JsonSchemaFormat(
    name="invoice", schema=INVOICE, description="What was bought.", strict=True
)


def test_a_schema_is_kept(client: ChatCompletionsClient, keyed: RunningServer) -> None:
    for temperature in (0, 1):
        answer = client.complete(
            messages=MESSAGES,
            response_format=INVOICE_FORMAT,
            temperature=temperature,
            max_tokens=400,
        )
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content), INVOICE)
    assert_well(keyed)


def test_a_schema_is_kept_streamed_and_with_a_picture(
    client: ChatCompletionsClient, keyed: RunningServer
) -> None:
    picture = ImageContentItem(image_url=ImageUrl(url=data_url(plain_png(40, 30)), detail="low"))
    updates = client.complete(
        messages=[UserMessage(content=[TextContentItem(text="Read this."), picture])],
        response_format=INVOICE_FORMAT,
        max_tokens=400,
        stream=True,
    )
    text = "".join(update.choices[0].delta.content for update in updates)
    jsonschema.validate(json.loads(text), INVOICE)
    assert_well(keyed)


def test_json_object_and_a_choice_by_extras(
    client: ChatCompletionsClient, keyed: RunningServer
) -> None:
    answer = client.complete(messages=MESSAGES, response_format="json_object", max_tokens=3)
    assert answer.choices[0].message.content.startswith("{")
    answer = client.complete(messages=MESSAGES, model_extras={"guided_choice": ["yes", "no"]})
    assert answer.choices[0].message.content in ("yes", "no")
    assert_well(keyed)


def test_what_the_model_cannot_do_is_told_by_the_documentations_loop(
    client: ChatCompletionsClient,
    keyed: RunningServer,
    requests: RequestCount,
) -> None:
    told: list[str] = []
    with pytest.raises(HttpResponseError) as refused:
        client.complete(messages=MESSAGES, tool_choice=ChatCompletionsToolChoicePreset.AUTO)
    error = refused.value
    assert error.status_code == 422
    assert error.error is not None
    assert error.error.code == "parameter_not_supported"
    assert "tools" in error.message
    # Line by line what the reference shows for this case.
    response = json.loads(error.response._content.decode("utf-8"))  # type: ignore[union-attr]
    if isinstance(response, dict) and "detail" in response:
        for offending in response["detail"]:
            param = ".".join(offending["loc"])
            value = offending["input"]
            told.append(f"The model doesn't support the parameter '{param}' with value '{value}'")
    assert told == ["The model doesn't support the parameter 'body.tool_choice' with value 'auto'"]
    assert requests.is_exactly(1)
    assert_well(keyed)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"messages": []}, 422, "invalid_parameter"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "hi"}], "x": 1}, 400, "unknown_parameter"),
        ({"messages": [{"role": "user", "content": "hi"}], "tools": [{}]}, 422, None),
        ({"messages": [{"role": "tool", "content": "hi"}]}, 422, "parameter_not_supported"),
    ],
    ids=["empty", "too long", "unknown", "tools", "tool role"],
)
def test_what_the_caller_did_wrong_is_asked_once(
    client: ChatCompletionsClient,
    keyed: RunningServer,
    requests: RequestCount,
    body: dict[str, Any],
    status: int,
    code: str | None,
) -> None:
    """A client that tries again would have the same long prompt computed four times."""
    with pytest.raises(HttpResponseError) as refused:
        client.complete(body)
    assert refused.value.status_code == status
    assert refused.value.error is not None
    assert refused.value.error.code == (code or "parameter_not_supported")
    assert refused.value.error.message
    assert requests.is_exactly(1)
    assert_well(keyed)


def test_a_route_that_is_not_there_is_not_found(
    keyed: RunningServer, requests: RequestCount
) -> None:
    with client_at(f"{keyed.base_url}/elsewhere") as client:
        with pytest.raises(ResourceNotFoundError):
            client.complete(messages=MESSAGES)
        with pytest.raises(ResourceNotFoundError):
            client.get_model_info()
    assert requests.is_exactly(2)
    assert_well(keyed)


def statuses_of_the_sdks_requests(caplog: pytest.LogCaptureFixture) -> list[int]:
    """By the lines of a server in this process. The SDK gives each of its requests an id."""
    lines = [getattr(record, "fields", {}) for record in caplog.records]
    return [fields["status"] for fields in lines if "client" in fields]


def test_a_full_server_is_tried_again_and_then_answers(
    demo_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parrot = Parrot(demo_checkpoint)
    with (
        parrot_server(demo_checkpoint, parrot, max_num_seqs=1, max_queued=0) as server,
        client_at(server.base_url) as client,
        caplog.at_level(logging.INFO, "server.observer"),
    ):
        parrot.step_s = 0.05
        first = Thread(target=server.ask, args=("Ten letters",))
        first.start()
        while not server.state()["running"]:
            pass
        parrot.step_s = 0.02
        response = client.complete(messages=[UserMessage("Me too")], temperature=0)
        assert response.choices[0].message.content == "Me too"
        first.join()
        parrot.step_s = 0.0
        wait_until(lambda: len(statuses_of_the_sdks_requests(caplog)) >= 2, 5, "two requests")
        assert statuses_of_the_sdks_requests(caplog) == [429, 200]
        assert_well(server)


def test_a_stream_that_fails_midway_raises(
    failing: Endpoint, way_to: Callable[[Endpoint], str]
) -> None:
    """An error event alone would be swallowed: the connection must not end in good order."""
    heard: list[str] = []
    with client_at(way_to(failing)) as client:
        updates = client.complete(messages=[UserMessage("letters " * 10)], stream=True)
        pieces = (choice.delta.content for update in updates for choice in update.choices)
        with pytest.raises(HttpResponseError) as broken:
            heard.extend(pieces)
    assert "".join(heard) == "letter"
    assert "secret" not in str(broken.value)
    assert_well(failing)


def test_an_answer_that_fails_raises_at_once(
    failing: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    with client_at(failing.base_url) as client, caplog.at_level(logging.INFO, "server.observer"):
        with pytest.raises(HttpResponseError) as broken:
            client.complete(messages=[UserMessage("letters " * 10)])
        # The line is written after the answer has gone out: until then the level must hold.
        wait_until(lambda: statuses_of_the_sdks_requests(caplog), 5, "one request")
    assert broken.value.status_code == 424
    assert statuses_of_the_sdks_requests(caplog) == [424]
    assert_well(failing)


def test_leaving_a_stream_early_frees_the_server(
    client: ChatCompletionsClient, keyed: RunningServer
) -> None:
    with client.complete(messages=MESSAGES, stream=True, max_tokens=5000) as updates:
        for _, update in zip(range(5), updates, strict=False):
            assert update.choices
    assert_well(keyed)
