"""Which address is posted to, and in which style: as given, or as the server says."""

import asyncio
from inspect import signature

import pytest

from benchmark import http
from benchmark.load.client import Client
from benchmark.load.command import bench as bench_command
from benchmark.load.endpoint import Endpoint, EndpointError, chat_url, find_endpoint
from server.settings import Settings

from .asking import HELLO
from .conftest import KEY
from .scripted_server import answer, scripted_server, whole

AZURE = "?api-version=2024-05-01-preview"


@pytest.mark.parametrize(
    ("url", "style", "expected"),
    [
        ("http://h:1", "azure", f"http://h:1/chat/completions{AZURE}"),
        ("https://h/models/", "azure", f"https://h/models/chat/completions{AZURE}"),
        ("http://h:1/", "openai", "http://h:1/v1/chat/completions"),
        ("http://h:1/openai/v1", "openai", "http://h:1/openai/v1/chat/completions"),
        (
            "https://h/openai/deployments/d/chat/completions?api-version=2024-10-21",
            "azure",
            "https://h/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
        ("http://h/v1/chat/completions", "openai", "http://h/v1/chat/completions"),
    ],
)
def test_a_root_a_v1_and_a_whole_address_will_do(url, style, expected):
    assert chat_url(url, style) == expected


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/chat/completions", "/chat/completions"])
def test_our_own_server_is_found_and_answers_at_every_address(keyed_parrot, path):
    endpoint = find_endpoint(f"{keyed_parrot.base_url}{path}", None, None, KEY, {})

    async def ask():
        client = Client(endpoint, 10)
        try:
            return await client.ask(HELLO, 8)
        finally:
            client.close()

    found = asyncio.run(ask())
    assert (found.error, found.text) == (None, "hello")
    assert found.has_usage
    assert found.num_prompt_tokens > 1
    assert endpoint.style == ("openai" if "/v1" in path else "azure")


def test_extra_fields_reach_our_server_in_both_styles(keyed_parrot):
    """min_tokens makes the parrot, which would say one word, go on; Azure's style needs a header
    for that."""
    for style in ("azure", "openai"):
        endpoint = find_endpoint(keyed_parrot.base_url, style, None, KEY, {"ignore_eos": True})

        async def ask(endpoint=endpoint):
            client = Client(endpoint, 10)
            try:
                return await client.ask(HELLO, 20)
            finally:
                client.close()

        assert asyncio.run(ask()).num_tokens == 20


def test_a_server_of_openais_style_is_told_by_its_models_and_asked_for_its_first():
    models = whole("200 OK", b'{"data": [{"id": "first"}, {"id": "second"}]}')

    with scripted_server(lambda body: models) as server:
        endpoint = find_endpoint(server.url, None, None, "k", {})
    assert endpoint == Endpoint(f"{server.url}/v1/chat/completions", "openai", "first", "k")
    assert all("Bearer k" in head for head in server.heads)


def test_neither_style_is_an_error_that_names_the_way_out():
    with (
        scripted_server(lambda body: whole("404 Not Found", b"no")) as server,
        pytest.raises(EndpointError, match="--api-style"),
    ):
        find_endpoint(server.url, None, None, None, {})


def test_a_server_without_models_needs_a_name():
    with (
        scripted_server(lambda body: whole("200 OK", b'{"data": []}')) as server,
        pytest.raises(EndpointError, match="--model"),
    ):
        find_endpoint(server.url, "openai", None, None, {})


@pytest.mark.parametrize("style", ["azure", "openai", None])
@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "ftp://h", "http://", "http://[::1"),
        *("http://localhost:500l", "http://localhost:99999", "http://localhost:0"),
    ],
)
def test_what_is_no_address_is_refused_by_its_name(url, style):
    """A letter in the port was a stack trace."""
    with pytest.raises(EndpointError) as caught:
        find_endpoint(url, style, "m", None, {})

    assert url in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://me:secret@h", "ftp://me:secret@h", "http://me:secret@h:99999", "me:secret@h"]
)
def test_a_password_in_an_address_is_not_repeated(url):
    with pytest.raises(EndpointError) as caught:
        find_endpoint(url, "azure", None, None, {})

    assert "secret" not in str(caught.value)


def test_whoever_names_no_address_asks_our_server_where_it_listens():
    """`python -m benchmark.http` asked at port 8000."""
    port = Settings.model_fields["port"].default

    assert signature(bench_command).parameters["url"].default == f"http://127.0.0.1:{port}"
    assert f"http://127.0.0.1:{port}" == http.OURS


def test_usage_is_asked_for_in_openais_style_alone():
    """Azure's refuses fields that it does not know, and tells the usage unasked."""
    with scripted_server(lambda body: answer(1)) as server:
        for style in ("openai", "azure"):
            endpoint = find_endpoint(f"{server.url}/chat/completions", style, "m", None, {})

            async def ask(endpoint=endpoint):
                client = Client(endpoint, 10)
                await client.ask(HELLO, 3)
                client.close()

            asyncio.run(ask())
    openai, azure = server.bodies
    assert openai.pop("stream_options") == {"include_usage": True}
    assert openai == azure
    assert (azure["max_tokens"], azure["stream"], azure["temperature"]) == (3, True, 0)
