"""Several engines, toys in processes of their own, behind one client: who gets what, how much may
wait, and what the death of one takes along."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from scoring.engine_client import EngineState
from scoring.engine_group import EngineGroup
from scoring.errors import (
    ContextLengthError,
    EngineDeadError,
    EngineNotReadyError,
    EngineOverloadedError,
)
from scoring.sequence import Sequence

from . import toy_engine
from .engine_processes import CONFIG, belongings, outputs_of, the_processes, tokens_of, until
from .scripted import make_picture, make_sequence
from .toy_engine import BAD_LUCK, LIMITS

pytestmark = pytest.mark.usefixtures("own_temp")

LONG = 100_000
Task = asyncio.Task[list[int | None]]


def group_of(
    num_engines: int = 2, build: str = "build", *, max_num_seqs: int = 32, **bounds: int
) -> EngineGroup:
    config = replace(CONFIG, data_parallel=num_engines, max_num_seqs=max_num_seqs)
    bounds = {"max_queued": 100, **bounds}
    return EngineGroup(config, build=toy_engine.NAME + build, **bounds)


@asynccontextmanager
async def running(
    num_engines: int = 2, build: str = "build", *, max_num_seqs: int = 32, **bounds: int
) -> AsyncIterator[EngineGroup]:
    """A group that is ready; stopped afterwards, with nothing open and nothing left."""
    before = belongings()
    group = group_of(num_engines, build, max_num_seqs=max_num_seqs, **bounds)
    group.start()
    try:
        await until(lambda: group.state is not EngineState.LOADING)
        yield group
    finally:
        await group.stop()
    await until(lambda: group.num_open == 0)
    assert group.state in (EngineState.STOPPED, EngineState.DEAD)
    after = belongings()
    assert [after[kind] for kind in ("processes", "threads", "files")] == [
        before[kind] for kind in ("processes", "threads", "files")
    ]


async def open_one(group: EngineGroup, sequence: Sequence) -> tuple[int, Task]:
    """Start a request; the rank of the engine that has it, and its task."""
    before = [engine.num_open for engine in group.members]
    task = asyncio.create_task(tokens_of(group, sequence))
    await until(lambda: group.num_open == sum(before) + 1)
    (rank,) = (r for r, e in enumerate(group.members) if e.num_open != before[r])
    return rank, task


def endless(name: str, token: int = 1, num_prompt_tokens: int = 100) -> Sequence:
    """Prompts of different tokens have nothing in common."""
    return make_sequence(name, [token] * num_prompt_tokens, max_tokens=LONG)


async def cancel(*tasks: Task) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def until_idle(group: EngineGroup) -> None:
    """Every engine that serves knows that nobody is left, and has its blocks."""
    serving = [engine for engine in group.members if engine.state is EngineState.READY]
    await until(lambda: all(e.stats.num_running == 0 for e in serving))
    assert all(e.stats.num_blocks_free == e.stats.num_blocks for e in serving)
    assert group.num_open == 0
    assert sum(engine.num_queued_tokens for engine in group.members) == 0


def test_many_requests_at_once_each_get_their_own_from_both_engines():
    async def main() -> None:
        async with running() as group:
            lengths = range(1, 60)
            tasks = [
                asyncio.create_task(
                    tokens_of(group, make_sequence(str(n), [100 + n], max_tokens=n))
                )
                for n in lengths
            ]
            await until(lambda: all(engine.num_open for engine in group.members))
            assert await asyncio.gather(*tasks) == [list(range(n)) for n in lengths]
            await until_idle(group)

    asyncio.run(main())


def test_a_ready_group_says_what_all_of_it_can_take():
    async def main() -> None:
        async with running(3, "build_unequal") as group:
            assert group.state is EngineState.READY
            assert group.failure is None
            assert group.check_ready() == group.limits == replace(LIMITS, max_model_len=998)
            assert (group.stats.num_blocks, group.stats.num_blocks_free) == (30, 30)
            with pytest.raises(ContextLengthError):
                await tokens_of(group, make_sequence("a", [1] * 1000))
            await until_idle(group)

    asyncio.run(main())


def test_requests_about_one_picture_land_together():
    async def main() -> None:
        async with running() as group:
            ranks: dict[str, list[int]] = {"cat": [], "dog": []}
            tasks = []
            for question in range(3):
                for name, seen in ranks.items():
                    sequence = make_sequence(
                        f"{name} {question}",
                        [question] * 5 + [-1] * 500,
                        max_tokens=LONG,
                        pictures={5: make_picture(name, 500)},
                    )
                    rank, task = await open_one(group, sequence)
                    seen.append(rank)
                    tasks.append(task)
            assert sorted(ranks.values()) == [[0] * 3, [1] * 3]
            await cancel(*tasks)
            await until_idle(group)

    asyncio.run(main())


def test_what_is_open_weighs_by_its_tokens_and_no_longer_than_it_is_open():
    async def main() -> None:
        async with running() as group:
            heavy, first = await open_one(group, endless("a", 1, num_prompt_tokens=5000))
            others = [await open_one(group, endless(f"b{n}", 2 + n)) for n in range(4)]
            assert {rank for rank, _ in others} == {1 - heavy}
            await cancel(first)
            rank, last = await open_one(group, endless("c", 9))
            assert rank == heavy
            await cancel(last, *(task for _, task in others))

    asyncio.run(main())


def test_what_an_answer_has_said_weighs_too():
    async def main() -> None:
        async with running() as group:
            talks = group.generate(endless("talks", 1, num_prompt_tokens=10))
            for _ in range(200):
                await anext(talks)
            (talker,) = (rank for rank, e in enumerate(group.members) if e.num_open)
            asks = group.generate(endless("asks", 2, num_prompt_tokens=100))
            await anext(asks)
            rank, task = await open_one(group, endless("c", 3))
            assert rank != talker
            await cancel(task)
            for outputs in (talks, asks):
                await outputs.aclose()
            await until_idle(group)

    asyncio.run(main())


def test_leaving_ends_the_request_where_it_runs():
    async def main() -> None:
        async with running() as group:
            _, staying = await open_one(group, endless("stays", 1))
            rank, leaving = await open_one(group, endless("leaves", 2))
            await until(lambda: group.stats.num_running == 2)
            await cancel(leaving)
            await until(lambda: group.members[rank].stats.num_running == 0)
            assert group.stats.num_running == 1
            assert not staying.done()
            await cancel(staying)
            await until_idle(group)

    asyncio.run(main())


def test_the_queues_bound_is_of_all_together():
    """Two places and one chair. All three have one beginning, so that one engine has the most."""

    async def main() -> None:
        async with running(max_num_seqs=1, max_queued=1) as group:
            opened = [await open_one(group, endless(name, num_prompt_tokens=640)) for name in "abc"]
            assert {rank for rank, _ in opened} == {opened[0][0]}
            with pytest.raises(EngineOverloadedError, match="3 requests"):
                group.check_room()
            with pytest.raises(EngineOverloadedError):
                await tokens_of(group, endless("d"))
            await cancel(opened[0][1])
            _, last = await open_one(group, endless("e"))
            await cancel(last, *(task for _, task in opened[1:]))
            await until_idle(group)

    asyncio.run(main())


def test_the_bound_on_prompts_that_wait_is_of_all_together():
    async def main() -> None:
        async with running(build="build_with_endless_steps", max_queued_tokens=250) as group:
            (one, first), (other, second) = [
                await open_one(group, endless(name, token)) for name, token in (("a", 1), ("b", 2))
            ]
            assert one != other
            group.check_room(50)
            with pytest.raises(EngineOverloadedError, match=r"200 tokens.* has 51; 250"):
                group.check_room(51)
            with pytest.raises(EngineOverloadedError):
                await tokens_of(group, endless("c", 3))
            await cancel(first, second)
            group.check_room(1000)  # one prompt always may

    asyncio.run(main())


def test_a_dead_engines_places_are_gone():
    async def main() -> None:
        async with running(max_num_seqs=1, max_queued=0) as group:
            tasks = [(await open_one(group, endless(name)))[1] for name in "ab"]
            await cancel(*tasks)
            the_processes()[0].kill()
            await until(lambda: group.state is EngineState.DEGRADED)
            _, task = await open_one(group, endless("c"))
            with pytest.raises(EngineOverloadedError, match="1 requests"):
                group.check_room()
            await cancel(task)

    asyncio.run(main())


async def kill_one(group: EngineGroup) -> int:
    """Kill an engine's process; its rank."""
    alive = {r for r, e in enumerate(group.members) if e.state is EngineState.READY}
    the_processes()[0].kill()
    await until(lambda: any(group.members[rank].state is EngineState.DEAD for rank in alive))
    (rank,) = (rank for rank in alive if group.members[rank].state is EngineState.DEAD)
    return rank


def test_a_killed_engine_takes_along_its_own_requests_only(caplog):
    async def main() -> None:
        async with running() as group:
            tasks: list[list[Task]] = [[], []]
            for number in range(6):
                sequence = make_sequence(str(number), [number + 1] * 100, max_tokens=300)
                rank, task = await open_one(group, sequence)
                tasks[rank].append(task)
            assert all(len(some) == 3 for some in tasks)
            await until(lambda: group.stats.num_running == 6)
            dead = await kill_one(group)

            lost = await asyncio.gather(*tasks[dead], return_exceptions=True)
            # Others serve, so another try is of use.
            assert [type(result) for result in lost] == [EngineNotReadyError] * 3
            assert await asyncio.gather(*tasks[1 - dead]) == [list(range(300))] * 3
            assert group.state is EngineState.DEGRADED
            assert group.check_ready() == LIMITS
            assert f"engine {dead} is dead; 1 of 2 serve" in caplog.text
            assert "killed by SIGKILL" in group.failure

            # What the dead one knew is computed anew, and its load is nobody's.
            for number in range(6):
                sequence = make_sequence(str(number), [number + 1] * 100, max_tokens=5)
                assert await tokens_of(group, sequence) == list(range(5))
            await until_idle(group)
            assert group.stats.num_blocks == 10

            await kill_one(group)
            await until(lambda: group.state is EngineState.DEAD)
            assert group.stats is None
            with pytest.raises(EngineDeadError):
                group.check_ready()
            with pytest.raises(EngineDeadError):
                await tokens_of(group, make_sequence("late"))

    asyncio.run(main())


def test_an_error_in_ones_loop_is_its_own_death_only():
    async def main() -> None:
        async with running() as group:
            rank, good = await open_one(group, make_sequence("good", max_tokens=200))
            with pytest.raises(EngineNotReadyError):
                await tokens_of(group, make_sequence("bad", [BAD_LUCK] * 5))
            assert group.members[1 - rank].failure == group.failure == "unexpected RuntimeError"
            assert await good == list(range(200))
            assert group.state is EngineState.DEGRADED

    asyncio.run(main())


def test_one_that_cannot_be_built_fails_the_group_at_once():
    """The others are not waited for: they would serve with less than was asked for."""

    async def main() -> None:
        group = group_of(3, "build_the_second_broken")
        group.start()
        await until(lambda: group.state is not EngineState.LOADING)
        assert group.state is EngineState.FAILED
        assert group.failure == "1 missing: model.norm.weight"
        with pytest.raises(EngineDeadError):
            group.check_ready()
        await group.stop()

    before = belongings()
    asyncio.run(main())
    assert belongings() == before


def test_while_it_loads_it_tells_how_far_all_are_and_takes_nothing():
    async def main() -> None:
        group = group_of(3, "build_for_ever")
        assert (group.state, group.total_bytes) == (EngineState.LOADING, 0)
        group.start()
        await until(lambda: group.loaded_bytes == 90)
        assert group.total_bytes == 300
        assert (group.state, group.stats, group.limits) == (EngineState.LOADING, None, None)
        with pytest.raises(EngineNotReadyError, match="loading"):
            await tokens_of(group, make_sequence("a"))
        await group.stop()
        assert group.state is EngineState.STOPPED

    before = belongings()
    asyncio.run(main())
    assert belongings() == before


def test_stopping_fails_what_is_open_and_leaves_nothing():
    async def main() -> None:
        async with running() as group:
            tasks = [(await open_one(group, endless(name, n)))[1] for n, name in enumerate("ab")]
            await asyncio.gather(group.stop(), group.stop())
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [EngineNotReadyError] * 2
            with pytest.raises(EngineNotReadyError, match="stopped"):
                await outputs_of(group, make_sequence("late"))

    before = belongings()
    asyncio.run(main())
    assert belongings() == before


def test_stopping_what_was_never_started():
    async def main() -> None:
        await group_of().stop()

    asyncio.run(main())
