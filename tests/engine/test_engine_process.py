"""The engine in a process of its own: what comes through to it and back, and what does not."""

import asyncio
import os
import signal
import socket
import stat
import tempfile
import time
import zlib
from contextlib import aclosing

import pytest

from scoring.async_engine import AsyncEngine
from scoring.engine_client import EngineState
from scoring.errors import (
    ContextLengthError,
    InvalidSequenceError,
)
from scoring.sequence import FinishReason, ImageSpan, SamplingParams, Sequence

from . import toy_engine
from .engine_processes import (
    CONFIG,
    large_picture,
    outputs_of,
    running,
    started,
    the_process,
    tokens_of,
    until,
)
from .scripted import make_sequence
from .toy_engine import LIMITS

pytestmark = pytest.mark.usefixtures("own_temp")

LONG = 100_000


def test_outputs_come_in_order_and_the_last_one_says_why():
    async def main() -> None:
        async with running() as engine:
            outputs = await outputs_of(engine, make_sequence("a", max_tokens=50))

            assert [output.token_id for output in outputs] == list(range(50))
            assert {output.finish_reason for output in outputs[:-1]} == {None}
            assert outputs[-1].finish_reason is FinishReason.LENGTH
            assert engine.num_open == 0
            assert engine.limits == engine.check_ready() == LIMITS
            assert (engine.loaded_bytes, engine.total_bytes) == (100, 100)

    asyncio.run(main())


def test_many_requests_at_once_each_get_their_own():
    async def main() -> None:
        async with running() as engine:
            lengths = range(1, 60)
            results = await asyncio.gather(
                *(tokens_of(engine, make_sequence(str(n), max_tokens=n)) for n in lengths)
            )
            assert results == [list(range(n)) for n in lengths]
            await until(lambda: engine.stats.num_running == 0)

    asyncio.run(main())


def test_the_door_refuses_with_the_error_it_has_in_a_thread():
    async def main() -> None:
        async with running() as engine:
            good = asyncio.create_task(tokens_of(engine, make_sequence("good", max_tokens=40)))
            with pytest.raises(InvalidSequenceError, match="the prompt is empty"):
                await tokens_of(engine, make_sequence("empty", []))
            too_long = ContextLengthError(LIMITS.max_model_len, LIMITS.max_model_len)
            with pytest.raises(ContextLengthError, match=f"^{too_long}$"):
                await tokens_of(engine, make_sequence("long", [1] * LIMITS.max_model_len))
            with pytest.raises(InvalidSequenceError, match="type"):
                await tokens_of(engine, Sequence("odd", [1], SamplingParams(max_tokens="five")))
            assert await good == list(range(40))
            assert engine.num_open == 0

    asyncio.run(main())


def test_leaving_mid_stream_ends_the_sequence_there_too():
    async def main() -> None:
        async with running() as engine:
            outputs = engine.generate(make_sequence("a", max_tokens=LONG))
            await anext(outputs)
            assert engine.stats.num_running == 1
            await outputs.aclose()
            await until(lambda: engine.stats.num_running == 0, 5)
            assert await tokens_of(engine, make_sequence("a", max_tokens=3)) == [0, 1, 2]

    asyncio.run(main())


def test_an_event_loop_that_is_held_up_misses_nothing():
    async def main() -> None:
        async with running() as engine:
            task = asyncio.create_task(tokens_of(engine, make_sequence("a", max_tokens=300)))
            for _ in range(5):
                await asyncio.sleep(0.01)
                time.sleep(0.1)  # noqa: ASYNC251 - on purpose
            assert await task == list(range(300))

    asyncio.run(main())


def test_a_large_picture_arrives_whole_and_holds_nobody_up():
    """The event loop's longest pause is the machine's fault once or twice, ours every time."""
    pictures = [large_picture(seed) for seed in range(8)]
    pauses: list[float] = []

    async def ask(engine: AsyncEngine, number: int) -> list[int | None]:
        spans = (ImageSpan(pictures[number], 1),)
        sequence = Sequence(str(number), [1, *[-1] * 10], SamplingParams(max_tokens=1), spans)
        task = asyncio.create_task(tokens_of(engine, sequence))
        longest, last = 0.0, time.monotonic()
        while not task.done():
            await asyncio.sleep(0)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        pauses.append(longest)
        return await task

    async def main() -> None:
        async with running() as engine:
            for number, picture in enumerate(pictures):
                assert await ask(engine, number) == [zlib.crc32(picture.pixels)]

    asyncio.run(main())
    assert sorted(pauses)[len(pauses) // 2] < 0.05


def test_a_function_cannot_be_sent_to_another_process():
    async def main() -> None:
        with pytest.raises(TypeError, match="name"):
            AsyncEngine(CONFIG, max_queued=1, own_process=True, build=toy_engine.build)

    asyncio.run(main())


def test_signals_for_everybody_are_left_to_the_parent():
    """It drains first, and then tells the engine. A Ctrl-C goes to the terminal's process group."""

    async def main() -> None:
        async with running() as engine:
            process = the_process()
            async with aclosing(engine.generate(make_sequence("a", max_tokens=200))) as outputs:
                first = await anext(outputs)
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGTERM)
                rest = [output.token_id async for output in outputs]
            assert [first.token_id, *rest] == list(range(200))
            assert os.getpgid(process.pid) != os.getpgid(0)

    asyncio.run(main())


def test_strangers_find_a_locked_door_then_none(own_temp):
    async def main() -> None:
        engine = await started()
        (directory,) = own_temp.iterdir()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as stranger:  # of this user, and quick
            stranger.connect(str(directory / "engine"))
            for frame in (b"me", b"\xc1", b"garbage"):  # to zmq, a peer of its first version
                stranger.sendall(bytes([len(frame) + 1, 0]) + frame)
            stranger.sendall(os.urandom(1000))
            await until(lambda: engine.state is not EngineState.LOADING)
            assert await tokens_of(engine, make_sequence("a", max_tokens=5)) == list(range(5))
        assert list(own_temp.iterdir()) == []
        await engine.stop()

    asyncio.run(main())


def test_a_long_name_of_the_temporary_directory_is_no_obstacle(own_temp, monkeypatch):
    """A unix socket's address has room for 107 bytes."""
    long = own_temp / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    async def main() -> None:
        async with running() as engine:
            assert await tokens_of(engine, make_sequence("a", max_tokens=2)) == [0, 1]
        assert list(long.iterdir()) == []

    asyncio.run(main())
