"""The seam between asyncio and the engine's thread, with a runner that needs no model."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import torch

from model_config import UnsupportedConfigError
from scoring.async_engine import AsyncEngine
from scoring.engine import Engine
from scoring.engine_client import EngineState
from scoring.engine_config import EngineConfig
from scoring.errors import (
    CheckpointError,
    ContextLengthError,
    EngineDeadError,
    EngineNotReadyError,
    EngineOverloadedError,
    GenerationError,
    InvalidSequenceError,
)
from scoring.sequence import FinishReason, Sequence, TokenOutput

from .scripted import PacedRunner, ScriptedRunner, make_engine, make_scheduler, make_sequence

CONFIG = EngineConfig(Path("not", "read"), max_num_seqs=2)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it comes true in another thread
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(
    runner: ScriptedRunner, *, max_queued: int = 10, max_queued_tokens: int | None = None
) -> AsyncIterator[AsyncEngine]:
    """An engine around the runner, ready; stopped afterwards, its thread gone."""
    scheduler = make_scheduler(num_blocks=64, max_num_seqs=CONFIG.max_num_seqs)
    engine = AsyncEngine(
        CONFIG,
        max_queued=max_queued,
        max_queued_tokens=max_queued_tokens,
        build=lambda config, report: make_engine(runner, scheduler),
    )
    engine.start()
    try:
        await until(lambda: engine.state is not EngineState.LOADING)
        yield engine
    finally:
        if isinstance(runner, PacedRunner):
            runner.allow(1000)
        await engine.stop()
    assert not engine_threads()


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "engine"]


async def outputs_of(engine: AsyncEngine, sequence: Sequence) -> list[TokenOutput]:
    async with asyncio.timeout(20), aclosing(engine.generate(sequence)) as outputs:
        return [output async for output in outputs]


async def tokens_of(engine: AsyncEngine, sequence: Sequence) -> list[int | None]:
    return [output.token_id for output in await outputs_of(engine, sequence)]


def test_outputs_come_in_order_and_the_last_one_says_why():
    async def main() -> None:
        async with running(ScriptedRunner({"a": range(50)})) as engine:
            outputs = await outputs_of(engine, make_sequence("a", max_tokens=50))

            assert [output.token_id for output in outputs] == list(range(50))
            assert {output.finish_reason for output in outputs[:-1]} == {None}
            assert outputs[-1].finish_reason is FinishReason.LENGTH
            assert engine.num_open == 0

    asyncio.run(main())


def test_many_requests_at_once_each_get_their_own():
    scripts = {str(n): [n * 10 + i for i in range(n % 7 + 1)] for n in range(12)}

    async def main() -> None:
        async with running(ScriptedRunner(scripts)) as engine:
            sequences = [make_sequence(name, max_tokens=len(s)) for name, s in scripts.items()]
            results = await asyncio.gather(*(tokens_of(engine, s) for s in sequences))

            assert results == list(scripts.values())
            await until(lambda: engine.stats.num_running == 0)
            stats = engine.stats
            assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks

    asyncio.run(main())


def test_limits_and_stats_are_there_when_it_is_ready():
    async def main() -> None:
        async with running(ScriptedRunner()) as engine:
            assert engine.state is EngineState.READY
            assert engine.check_ready() is engine.limits
            assert engine.limits.max_model_len == 256
            assert engine.stats.num_blocks_free == 64
            assert not engine.stopped.is_set()

    asyncio.run(main())


def test_an_idle_engine_takes_no_steps_and_still_stops():
    runner = ScriptedRunner()

    async def main() -> None:
        async with running(runner) as engine:
            await tokens_of(engine, make_sequence("a", max_tokens=2))
            await until(lambda: engine.stats.num_running == 0)
            stats = engine.stats
            await asyncio.sleep(0.02)
            assert len(runner.batches) == 2
            assert engine.stats is stats  # its loop sleeps: it has not said a word since

    asyncio.run(main())


def test_leaving_mid_stream_frees_the_blocks_within_two_steps():
    runner = PacedRunner({"stays": range(100)})

    async def main() -> None:
        async with running(runner) as engine:
            staying = asyncio.create_task(
                tokens_of(engine, make_sequence("stays", [9], max_tokens=10))
            )
            leaving = engine.generate(make_sequence("leaves", range(8)))
            first = asyncio.ensure_future(anext(leaving))
            await until(lambda: engine.num_open == 2)
            runner.allow(2)  # the first of them may have begun before both had come
            await first
            await until(lambda: engine.stats.num_running == 2)
            await leaving.aclose()
            assert engine.num_open == 1
            steps_before = len(runner.batches)

            runner.allow(100)
            assert await staying == list(range(10))

            later = [[row[0] for row in batch] for batch in runner.batches[steps_before:]]
            assert sum("leaves" in names for names in later) <= 2
            assert later[-1] == ["stays"]
            await until(lambda: engine.stats.num_running == 0)
            assert engine.stats.num_blocks_free + engine.stats.num_blocks_cached == 64

    asyncio.run(main())


def test_leaving_alone_lets_the_engine_rest():
    """Nobody else's steps bring the news: the loop must see it by itself."""
    runner = PacedRunner()

    async def main() -> None:
        async with running(runner) as engine:
            outputs = engine.generate(make_sequence("a", range(6)))
            runner.allow(1)
            await anext(outputs)
            await outputs.aclose()
            runner.allow(1)
            await until(lambda: engine.stats.num_running == 0)
            assert engine.stats.num_blocks_free + engine.stats.num_blocks_cached == 64
            assert len(runner.batches) <= 2

    asyncio.run(main())


def test_leaving_before_the_first_token_and_while_waiting_for_a_seat():
    runner = PacedRunner({"a": range(9), "b": range(9)})

    async def main() -> None:
        async with running(runner) as engine:
            staying = [
                asyncio.create_task(tokens_of(engine, make_sequence(n, max_tokens=9))) for n in "ab"
            ]
            waiting = asyncio.create_task(tokens_of(engine, make_sequence("waits")))
            await until(lambda: engine.num_open == 3)
            runner.allow(2)
            await until(lambda: engine.stats.num_waiting == 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            runner.allow(100)

            assert await asyncio.gather(*staying) == [list(range(9))] * 2
            assert "waits" not in [row[0] for batch in runner.batches for row in batch]
            await until(lambda: engine.stats.num_waiting == 0)

    asyncio.run(main())


def test_a_reader_that_takes_all_leaves_no_abort_behind():
    """The id may be used again at once: a late abort would end the next one."""

    async def main() -> None:
        async with running(ScriptedRunner({"a": [1, 2, 3]})) as engine:
            for _ in range(20):
                assert await tokens_of(engine, make_sequence("a", max_tokens=3)) == [1, 2, 3]

    asyncio.run(main())


def test_a_slow_reader_misses_nothing_and_holds_nobody_up():
    async def main() -> None:
        async with running(ScriptedRunner({"slow": range(30), "quick": range(30)})) as engine:
            slow = engine.generate(make_sequence("slow", max_tokens=30))
            first = await anext(slow)
            quick = await tokens_of(engine, make_sequence("quick", max_tokens=30))
            rest = [output.token_id async for output in slow]

            assert quick == list(range(30))
            assert [first.token_id, *rest] == list(range(30))

    asyncio.run(main())


def test_a_full_queue_refuses_and_takes_again_when_one_has_left():
    runner = PacedRunner()

    async def main() -> None:
        async with running(runner, max_queued=1) as engine:  # two seats and one that waits
            tasks = [
                asyncio.create_task(tokens_of(engine, make_sequence(n, max_tokens=2)))
                for n in "abc"
            ]
            await until(lambda: engine.num_open == 3)
            with pytest.raises(EngineOverloadedError, match="3 requests"):
                engine.check_room()
            with pytest.raises(EngineOverloadedError):
                await anext(engine.generate(make_sequence("d")))
            assert engine.num_open == 3

            tasks[2].cancel()
            await asyncio.wait([tasks[2]])
            engine.check_room()
            tasks[2] = asyncio.create_task(tokens_of(engine, make_sequence("d", max_tokens=2)))
            runner.allow(100)
            assert await asyncio.gather(*tasks) == [[7, 7]] * 3

    asyncio.run(main())


def test_long_prompts_that_wait_refuse_others_until_they_are_answered():
    """Few requests can be much work: what waits is bounded in prompt tokens, too."""
    runner = PacedRunner()

    async def main() -> None:
        async with running(runner, max_queued_tokens=50) as engine:
            first = asyncio.create_task(tokens_of(engine, make_sequence("a", [1] * 60)))
            await until(lambda: engine.num_open == 1)
            with pytest.raises(EngineOverloadedError, match=r"60 tokens.* has 1; 50"):
                await anext(engine.generate(make_sequence("b", [1])))
            runner.allow(1000)
            await first
            short = asyncio.create_task(tokens_of(engine, make_sequence("c", [1] * 25)))
            others = [make_sequence(n, [1] * 25, max_tokens=1) for n in "de"]
            assert await short
            for sequence in others:  # answered one after the other, so that neither waits
                assert await tokens_of(engine, sequence)

            leaver = engine.generate(make_sequence("f", [1] * 50))
            await anext(leaver)
            engine.check_room(50)  # its prompt has been answered: it waits no more
            await leaver.aclose()
            engine.check_room(50)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("prompt", "error"),
    [([-1], InvalidSequenceError), ([], InvalidSequenceError), (range(256), ContextLengthError)],
)
def test_what_the_door_refuses_is_raised_to_its_caller_only(prompt, error):
    async def main() -> None:
        async with running(ScriptedRunner()) as engine:
            good = asyncio.create_task(tokens_of(engine, make_sequence("good", max_tokens=40)))
            with pytest.raises(error):
                await tokens_of(engine, make_sequence("bad", prompt))
            assert await good == [7] * 40
            assert engine.num_open == 0

    asyncio.run(main())


def test_a_failed_row_is_raised_to_its_caller_only(caplog):
    runner = ScriptedRunner({"nan": [1, None]})
    runner.failing["bad"] = RuntimeError("secret detail")

    async def main() -> None:
        async with running(runner) as engine:
            good, bad, nan = await asyncio.gather(
                *(
                    tokens_of(engine, make_sequence(n, max_tokens=20))
                    for n in ("good", "bad", "nan")
                ),
                return_exceptions=True,
            )
            assert good == [7] * 20
            assert isinstance(bad, GenerationError)
            assert "secret" not in str(bad)
            assert isinstance(nan, GenerationError)
            assert engine.state is EngineState.READY
            await until(lambda: engine.stats.num_running == 0)

    with caplog.at_level(logging.CRITICAL):
        asyncio.run(main())


def test_an_id_in_use_is_refused_and_its_first_user_goes_on():
    runner = PacedRunner({"a": range(5)})

    async def main() -> None:
        async with running(runner) as engine:
            first = asyncio.create_task(tokens_of(engine, make_sequence("a", max_tokens=5)))
            await until(lambda: engine.num_open == 1)
            second = asyncio.create_task(tokens_of(engine, make_sequence("a", max_tokens=5)))
            runner.allow(100)
            done, _ = await asyncio.wait([first, second], timeout=2)
            for task in (first, second):
                task.cancel()

            assert done == {first, second}, "one of them waits for ever"
            assert first.result() == list(range(5))
            assert isinstance(second.exception(), InvalidSequenceError)

    asyncio.run(main())


def test_the_death_of_the_loop_fails_every_open_request_and_all_later_ones():
    runner = PacedRunner()

    async def main() -> None:
        async with running(runner) as engine:
            tasks = [asyncio.create_task(tokens_of(engine, make_sequence(n))) for n in "abc"]
            await until(lambda: engine.num_open == 3)
            runner.allow(2)
            await until(lambda: engine.stats.num_running == 2)
            runner.failing["b"] = torch.AcceleratorError("CUDA error: an illegal memory access")
            runner.allow(1)

            async with asyncio.timeout(20):
                results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [EngineDeadError] * 3
            assert engine.state is EngineState.DEAD
            assert engine.failure == "unexpected AcceleratorError"
            assert engine.stopped.is_set()
            assert engine.num_open == 0
            with pytest.raises(EngineDeadError):
                engine.check_ready()
            with pytest.raises(EngineDeadError):
                await tokens_of(engine, make_sequence("late"))
            await until(lambda: not engine_threads())

    asyncio.run(main())


def test_stopping_fails_open_requests_and_refuses_later_ones():
    runner = PacedRunner()

    async def main() -> None:
        async with running(runner) as engine:
            task = asyncio.create_task(tokens_of(engine, make_sequence("a")))
            runner.allow(1)
            await until(lambda: engine.stats.num_running == 1)
            stopping = asyncio.create_task(engine.stop())
            await asyncio.sleep(0.01)
            runner.allow(3)
            async with asyncio.timeout(20):
                await stopping
                (result,) = await asyncio.gather(task, return_exceptions=True)

            assert isinstance(result, EngineNotReadyError)
            assert not engine_threads()
            assert engine.state is EngineState.STOPPED
            assert engine.stopped.is_set()
            with pytest.raises(EngineNotReadyError, match="stopped"):
                engine.check_ready()

    asyncio.run(main())


async def built_by(build: Callable[..., Engine]) -> AsyncEngine:
    """An engine whose building has ended one way or the other."""
    engine = AsyncEngine(CONFIG, max_queued=1, build=build)
    engine.start()
    await until(lambda: engine.state is not EngineState.LOADING)
    return engine


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (CheckpointError("1 missing: model.norm.weight"), "1 missing: model.norm.weight"),
        (
            UnsupportedConfigError("config.json", "model_type", "gpt2", "only 'phi3_v'"),
            "config.json: model_type is 'gpt2'; only 'phi3_v'",
        ),
        (MemoryError("secret detail"), "unexpected MemoryError"),
        (KeyError("secret detail"), "unexpected KeyError"),
    ],
)
def test_an_engine_that_cannot_be_built_says_why(error, failure, caplog):
    def build(config, report) -> Engine:
        raise error

    async def main() -> None:
        engine = await built_by(build)

        assert engine.state is EngineState.FAILED
        assert engine.failure == failure
        assert engine.stopped.is_set()
        with pytest.raises(EngineDeadError):
            engine.check_ready()
        await engine.stop()
        assert not engine_threads()

    asyncio.run(main())


def test_while_it_loads_it_tells_how_far_and_takes_nothing():
    go_on = threading.Event()

    def build(config, report) -> Engine:
        report(30, 100)
        assert go_on.wait(20)
        return make_engine(ScriptedRunner())

    async def main() -> None:
        engine = AsyncEngine(CONFIG, max_queued=1, build=build)
        assert engine.state is EngineState.LOADING
        engine.start()
        await until(lambda: engine.loaded_bytes == 30)

        assert engine.total_bytes == 100
        with pytest.raises(EngineNotReadyError, match="loading"):
            engine.check_ready()
        with pytest.raises(EngineNotReadyError):
            await tokens_of(engine, make_sequence("a"))
        assert engine.num_open == 0

        go_on.set()
        await until(lambda: engine.state is EngineState.READY)
        assert await tokens_of(engine, make_sequence("a", max_tokens=1)) == [7]
        await engine.stop()
        assert not engine_threads()

    asyncio.run(main())


def test_stopping_while_it_loads_does_not_wait_for_the_weights():
    go_on = threading.Event()

    def build(config, report) -> Engine:
        assert go_on.wait(20)
        return make_engine(ScriptedRunner())

    async def main() -> None:
        engine = AsyncEngine(CONFIG, max_queued=1, build=build)
        engine.start()
        async with asyncio.timeout(5):
            await engine.stop()
        assert engine.state is EngineState.LOADING

        go_on.set()  # loaded after all, it serves nobody and goes
        await until(lambda: engine.state is EngineState.STOPPED)
        await until(lambda: not engine_threads())

    asyncio.run(main())


def test_an_event_loop_that_is_gone_does_not_keep_the_thread():
    """The process may end its loop first; the engine's thread then has nobody to tell."""
    go_on = threading.Event()

    def build(config, report) -> Engine:
        assert go_on.wait(20)
        raise CheckpointError("nobody hears this")

    async def main() -> AsyncEngine:
        engine = AsyncEngine(CONFIG, max_queued=1, build=build)
        engine.start()
        return engine

    asyncio.run(main())
    (thread,) = engine_threads()
    go_on.set()
    thread.join(20)

    assert not thread.is_alive()
