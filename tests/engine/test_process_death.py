"""How the engine's process ends, asked to or not: who is told, how soon, and what is left."""

import asyncio
import time

import psutil
import pytest

from scoring.async_engine import AsyncEngine
from scoring.engine_client import EngineState
from scoring.errors import EngineDeadError, EngineNotReadyError
from scoring.sequence import ImageSpan, SamplingParams, Sequence

from .engine_processes import (
    CONFIG,
    belongings,
    has_ended,
    large_picture,
    running,
    started,
    the_process,
    tokens_of,
    until,
)
from .scripted import make_sequence
from .toy_engine import BAD_LUCK

pytestmark = pytest.mark.usefixtures("own_temp")

LONG = 100_000


def test_a_kill_fails_what_is_open_within_a_second(caplog):
    async def main() -> None:
        async with running() as engine:
            ids = "abc"
            tasks = [
                asyncio.create_task(tokens_of(engine, make_sequence(name, max_tokens=LONG)))
                for name in ids
            ]
            await until(lambda: engine.stats.num_running == 3)
            the_process().kill()
            start = time.monotonic()
            results = await asyncio.gather(*tasks, return_exceptions=True)

            assert time.monotonic() - start < 1
            assert [type(result) for result in results] == [EngineDeadError] * 3
            assert engine.state is EngineState.DEAD
            assert "killed by SIGKILL" in engine.failure
            assert engine.stopped.is_set()
            assert engine.num_open == 0
            with pytest.raises(EngineDeadError):
                engine.check_ready()
            with pytest.raises(EngineDeadError):
                await tokens_of(engine, make_sequence("late"))

    before = belongings()
    asyncio.run(main())
    assert belongings() == before
    assert "killed by SIGKILL" in caplog.text


def test_a_request_sent_to_a_process_just_killed_fails_too(caplog):
    """The kernel knows of its end before the event loop does."""

    async def main() -> None:
        async with running() as engine:
            process = the_process()
            process.kill()
            while not has_ended(process.pid):  # the event loop does not get its turn
                pass
            with pytest.raises(EngineDeadError):
                await tokens_of(engine, make_sequence("late"))

    asyncio.run(main())


def test_an_error_in_the_loop_is_told_without_its_text():
    async def main() -> None:
        async with running() as engine:
            task = asyncio.create_task(tokens_of(engine, make_sequence("a", max_tokens=LONG)))
            await until(lambda: engine.stats.num_running == 1)
            with pytest.raises(EngineDeadError):
                await tokens_of(engine, make_sequence("bad", [BAD_LUCK]))
            with pytest.raises(EngineDeadError):
                await task
            assert engine.state is EngineState.DEAD
            assert engine.failure == "unexpected RuntimeError"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("build", "failure"),
    [
        ("build_what_is_broken", "1 missing: model.norm.weight"),
        ("build_by_mistake", "unexpected KeyError"),
        ("no_such_function", "unexpected AttributeError"),
        ("leave_without_a_word", "the engine's process ended by itself, with exit code 0"),
    ],
)
def test_an_engine_that_cannot_be_built_says_why(build, failure):
    async def main() -> None:
        async with running(build) as engine:
            assert engine.state is EngineState.FAILED
            assert engine.failure == failure
            assert engine.stopped.is_set()
            with pytest.raises(EngineDeadError):
                engine.check_ready()

    before = belongings()
    asyncio.run(main())
    assert belongings() == before


def test_a_kill_while_it_loads_is_a_failure_to_load():
    async def main() -> None:
        engine = await started("build_for_ever")
        await until(lambda: engine.loaded_bytes == 30)
        with pytest.raises(EngineNotReadyError, match="loading"):
            engine.check_ready()
        the_process().kill()
        await until(lambda: engine.state is not EngineState.LOADING, 1)
        assert engine.state is EngineState.FAILED
        assert "killed by SIGKILL" in engine.failure

    asyncio.run(main())


def test_stopping_fails_what_is_open_and_leaves_nothing():
    async def main() -> None:
        async with running() as engine:
            task = asyncio.create_task(tokens_of(engine, make_sequence("a", max_tokens=LONG)))
            picture = ImageSpan(large_picture(0), 0)
            sequence = Sequence("b", [-1] * 10, SamplingParams(max_tokens=1), (picture,))
            await tokens_of(engine, sequence)
            await asyncio.gather(engine.stop(), engine.stop())  # twice is once

            with pytest.raises(EngineNotReadyError):
                await task
            assert engine.state is EngineState.STOPPED
            assert engine.failure is None
            with pytest.raises(EngineNotReadyError, match="stopped"):
                engine.check_ready()
            assert psutil.Process().children() == []

    before = belongings()
    asyncio.run(main())
    assert belongings() == before


@pytest.mark.parametrize("build", ["build_for_ever", "build_with_endless_steps"])
def test_stopping_does_not_wait_for_weights_or_a_long_step(build):
    async def main() -> None:
        engine = await started(build)
        if build == "build_for_ever":
            await until(lambda: engine.loaded_bytes == 30)
        else:
            await until(lambda: engine.state is EngineState.READY)
            task = asyncio.create_task(tokens_of(engine, make_sequence("a")))
            await until(lambda: engine.num_open == 1)
            await asyncio.sleep(0.1)
        await engine.stop()
        assert engine.state is EngineState.STOPPED
        if build != "build_for_ever":
            with pytest.raises(EngineNotReadyError):
                await task

    before = belongings()
    start = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - start < 20
    assert belongings() == before


def test_stopping_what_was_never_started():
    async def main() -> None:
        engine = AsyncEngine(CONFIG, max_queued=1, own_process=True)
        await engine.stop()

    asyncio.run(main())
