"""azure-ai-inference's asynchronous client, for which aiohttp must be installed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

from ..http.parrot import ParrotServer
from ..http.running_server import Endpoint, RunningServer, assert_well
from .conftest import KEY, POLYGLOT

pytest.importorskip("aiohttp")

from azure.ai.inference.aio import ChatCompletionsClient
from azure.ai.inference.models import SystemMessage, UserMessage

MESSAGES = [SystemMessage("Be brief."), UserMessage("How many languages are in the world?")]


@asynccontextmanager
async def connected(base_url: str, key: str = KEY) -> AsyncIterator[ChatCompletionsClient]:
    async with ChatCompletionsClient(base_url, AzureKeyCredential(key)) as client:
        yield client


async def streamed_text(client: ChatCompletionsClient, **request: Any) -> str:
    updates = await client.complete(**{"messages": MESSAGES, "stream": True, **request})
    # The client stops reading at [DONE], before the body's end, and leaves the connection open.
    async with aclosing(updates):
        return "".join([update.choices[0].delta.content async for update in updates])


def test_it_gets_the_models_introduction_and_an_answer(keyed: RunningServer, base_url: str) -> None:
    async def talk() -> None:
        async with connected(base_url) as client:
            info = await client.get_model_info()
            assert info.model_name == "phi3v-demo"
            response = await client.complete(messages=MESSAGES, max_tokens=4)
            assert response.usage.completion_tokens <= 4

    asyncio.run(talk())
    assert_well(keyed)


def test_its_streams_add_up_to_whole_answers_many_at_once(
    keyed: RunningServer, base_url: str
) -> None:
    async def talk() -> tuple[str, list[str]]:
        async with connected(base_url) as client:
            parameters = {"temperature": 0, "max_tokens": 30}
            whole = await client.complete(messages=MESSAGES, **parameters)
            streams = [streamed_text(client, **parameters) for _ in range(6)]
            return whole.choices[0].message.content, await asyncio.gather(*streams)

    whole, streams = asyncio.run(talk())
    assert streams == [whole] * 6
    assert_well(keyed)


def test_characters_of_several_bytes_arrive_whole(
    parrot: ParrotServer, way_to: Callable[[Endpoint], str]
) -> None:
    async def talk() -> tuple[str, str]:
        async with connected(way_to(parrot)) as client:
            turns = [UserMessage(POLYGLOT)]
            whole = await client.complete(messages=turns)
            return whole.choices[0].message.content, await streamed_text(client, messages=turns)

    assert asyncio.run(talk()) == (POLYGLOT, POLYGLOT)


def test_its_errors_are_the_same(keyed: RunningServer, base_url: str) -> None:
    async def talk() -> None:
        async with connected(base_url, "wrong") as client:
            with pytest.raises(ClientAuthenticationError):
                await client.complete(messages=MESSAGES)
        async with connected(base_url) as client:
            with pytest.raises(HttpResponseError) as refused:
                await client.complete(messages=MESSAGES, tool_choice="auto")
            assert refused.value.status_code == 422

    asyncio.run(talk())
    assert_well(keyed)


def test_a_task_that_is_cancelled_frees_the_server(keyed: RunningServer, base_url: str) -> None:
    async def listen(client: ChatCompletionsClient, heard: asyncio.Event) -> None:
        updates = await client.complete(messages=MESSAGES, stream=True, temperature=0)
        try:
            async for _ in updates:
                heard.set()
        finally:
            await updates.aclose()

    async def talk() -> None:
        async with connected(base_url) as client:
            heard = asyncio.Event()
            task = asyncio.create_task(listen(client, heard))
            await heard.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(talk())
    assert_well(keyed)
