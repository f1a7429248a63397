"""What a replica says to an ingress reaches it, whatever becomes of a stream. Needs no cluster."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from scoring.engine_link import Refused
from scoring.sequence import TokenOutput

pytest.importorskip("ray", reason="the extra ray is not installed")

from server.ray.mailbox import Mailbox
from server.ray.messages import decode_batch


def tokens_in(data: bytes | None) -> list[int | None]:
    assert data is not None
    return [output.token_id for output in decode_batch(data, time.monotonic()).outputs]


async def next_of(batches: AsyncGenerator[bytes, None]) -> list[int | None]:
    async with asyncio.timeout(20):
        return tokens_in(await anext(batches))


async def one_turn() -> None:
    """Whoever waits begins to."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_what_a_step_says_comes_together() -> None:
    async def main() -> None:
        mailbox = Mailbox()
        async with aclosing(mailbox.batches(30)) as batches:
            reading = asyncio.create_task(next_of(batches))
            await one_turn()
            mailbox.put(TokenOutput("a", 1))
            mailbox.put(TokenOutput("b", 2))
            assert await reading == [1, 2]

    asyncio.run(main())


def test_the_newest_reader_gets_all_and_an_older_one_ends() -> None:
    """An ingress whose stream had broken opened another, while the replica, which knew nothing of
    the break, ran the first one on: each got a part of the tokens, and the first one's were lost
    without a word."""

    async def main() -> None:
        mailbox = Mailbox()
        old, new = mailbox.batches(30), mailbox.batches(30)
        olds = asyncio.create_task(anext(old, None))
        await one_turn()
        news = asyncio.create_task(next_of(new))
        await one_turn()
        mailbox.put(TokenOutput("a", 1))
        async with asyncio.timeout(20):
            assert await olds is None
        assert await news == [1]
        mailbox.put(TokenOutput("a", 2))
        assert await next_of(new) == [2]
        assert mailbox.is_read  # though the older one has ended
        await new.aclose()
        assert mailbox.is_idle

    asyncio.run(main())


def test_a_reader_that_is_told_of_the_break_late_takes_nothing_either() -> None:
    """It waits in its yield, for Ray to send what it took last."""

    async def main() -> None:
        mailbox = Mailbox()
        old, new = mailbox.batches(30), mailbox.batches(30)
        mailbox.put(TokenOutput("a", 1))
        assert await next_of(old) == [1]
        news = asyncio.create_task(next_of(new))
        await one_turn()
        assert [batch async for batch in old] == []
        mailbox.put(TokenOutput("a", 2))
        assert await news == [2]
        await new.aclose()

    asyncio.run(main())


def test_a_reader_with_nothing_to_read_ends_unless_something_is_open() -> None:
    async def main() -> None:
        mailbox = Mailbox()
        assert [batch async for batch in mailbox.batches(0.001)] == []
        mailbox.num_open = 1
        reading = asyncio.create_task(next_of(batches := mailbox.batches(0.001)))
        await asyncio.sleep(0.02)
        mailbox.put(TokenOutput("a", 1))
        assert await reading == [1]
        await batches.aclose()

    asyncio.run(main())


def test_one_sequences_words_are_taken_alone() -> None:
    async def main() -> None:
        mailbox = Mailbox()
        mailbox.put(TokenOutput("a", 1))
        mailbox.put(TokenOutput("b", 2))
        mailbox.put(Refused("a", "EngineOverloadedError", "full"))
        data = mailbox.take_of("a")
        assert data is not None
        batch = decode_batch(data, time.monotonic())
        assert [output.token_id for output in batch.outputs] == [1]
        assert [refused.message for refused in batch.errors] == ["full"]
        assert mailbox.take_of("a") is None
        batches = mailbox.batches(30)
        assert await next_of(batches) == [2]
        await batches.aclose()

    asyncio.run(main())
