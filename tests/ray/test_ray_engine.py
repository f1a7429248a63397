"""An ingress's side of a cluster, with Ray's side scripted. Needs no cluster."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

pytest.importorskip("ray", reason="the extra ray is not installed")

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of Ray's own modules
    from ray.exceptions import ActorDiedError, ActorUnavailableError
    from ray.serve.exceptions import BackPressureError

from scoring.errors import EngineNotReadyError
from scoring.router import prompt_key
from scoring.sequence import Sequence, TokenOutput

from ..engine.scripted import make_sequence
from .scripted_serve import (
    REPORT,
    Fleet,
    RayEngine,
    ScriptedHandle,
    batch,
    death,
    last,
    make_ray_engine,
)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - some of it comes true in another thread
            await asyncio.sleep(0.001)


class Scene:
    """An ingress, and replicas of which each has reported and is followed."""

    def __init__(self, *names: str) -> None:
        self.handle, self.fleet = ScriptedHandle(), Fleet()
        self.fleet.update(dict.fromkeys(names, REPORT))
        self.engine: RayEngine = make_ray_engine(self.handle, self.fleet)

    async def ask(self, sequence: Sequence) -> "asyncio.Task[list[int | None]]":
        """Its tokens, once they have come; its call has been made when this returns."""
        num_calls = len(self.handle.calls)
        asked = asyncio.create_task(self._tokens_of(sequence))
        await until(lambda: len(self.handle.calls) > num_calls or asked.done())
        return asked

    def accept(self, sequence: Sequence, replica: str) -> None:
        """As Ray's router does where a replica takes the request."""
        prompt = prompt_key(sequence)
        self.fleet.choose(sequence.id, prompt)
        self.fleet.went(sequence.id, replica, prompt)

    async def _tokens_of(self, sequence: Sequence) -> list[int | None]:
        async with asyncio.timeout(20), aclosing(self.engine.generate(sequence)) as outputs:
            return [output.token_id async for output in outputs]


@asynccontextmanager
async def scene(*names: str) -> AsyncIterator[Scene]:
    made = Scene(*names)
    made.engine.start()
    try:
        await until(lambda: set(made.handle.streams) == set(names))
        yield made
    finally:
        async with asyncio.timeout(20):
            await made.engine.stop()


def test_two_replicas_that_run_one_request_give_one_answer() -> None:
    """A connection broke before the first replica's consent had come: Ray sent the call to a
    second one, both ran it, and the caller got every token of both, mixed."""

    async def main() -> None:
        async with scene("one", "two") as stage:
            sequence = make_sequence("s")
            asked = await stage.ask(sequence)
            stage.accept(sequence, "two")
            (one,), (two,) = stage.handle.streams["one"], stage.handle.streams["two"]
            two.say(TokenOutput("s", 1))
            await until(two.said.empty)
            one.say(TokenOutput("s", 7))
            await until(one.said.empty)
            two.say(TokenOutput("s", 2))
            await until(two.said.empty)
            one.say(last("s", 8))
            await until(one.said.empty)
            two.say(last("s", 3))
            stage.handle.calls[0].end.set_result(None)
            assert await asked == [1, 2, 3]

    asyncio.run(main())


def test_what_a_call_brings_along_is_its_own_replicas_word() -> None:
    """The replica that Ray's call ends at returns what no stream took, but another spoke first."""

    async def main() -> None:
        async with scene("one", "two") as stage:
            sequence = make_sequence("s")
            asked = await stage.ask(sequence)
            stage.accept(sequence, "two")
            (one,) = stage.handle.streams["one"]
            one.say(TokenOutput("s", 1))
            await until(one.said.empty)
            stage.handle.calls[0].end.set_result(batch(TokenOutput("s", 7), last("s", 8)))
            await asyncio.sleep(0.01)
            one.say(last("s", 2))
            assert await asked == [1, 2]

    asyncio.run(main())


def test_a_call_that_brings_all_along_is_an_answer() -> None:
    async def main() -> None:
        async with scene("one") as stage:
            sequence = make_sequence("s")
            asked = await stage.ask(sequence)
            stage.accept(sequence, "one")
            stage.handle.calls[0].end.set_result(batch(TokenOutput("s", 7), last("s", 8)))
            assert await asked == [7, 8]

    asyncio.run(main())


@pytest.mark.parametrize(
    "error",
    [
        ActorUnavailableError("for a moment", b"0" * 16),
        BackPressureError(9, 8),  # a RayServeException, which is no RayError
        RuntimeError("something that is not foreseen"),
    ],
)
def test_a_stream_that_breaks_is_opened_anew(error: Exception) -> None:
    """By some errors it ended for good: of that replica nothing was heard again."""

    async def main() -> None:
        async with scene("one") as stage:
            stage.handle.streams["one"][0].said.put_nowait(error)
            await until(lambda: len(stage.handle.streams["one"]) == 2)
            asked = await stage.ask(make_sequence("s"))
            stage.handle.streams["one"][1].say(last("s", 1))
            assert await asked == [1]

    asyncio.run(main())


def test_an_answer_with_a_hole_is_an_error() -> None:
    """A stream broke over a batch, which nobody sent again: the answer went on behind it."""

    async def main() -> None:
        async with scene("one") as stage:
            asked = await stage.ask(make_sequence("s"))
            (stream,) = stage.handle.streams["one"]
            stream.say(TokenOutput("s", 1))
            stream.lose(TokenOutput("s", 2))
            stream.say(TokenOutput("s", 3), last("s", 4))
            with pytest.raises(EngineNotReadyError, match="lost on its way"):
                await asked
            await until(lambda: stage.handle.calls[0].is_cancelled)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["replica", "its engine"])
def test_a_request_that_waited_where_it_died_goes_to_another(how: str) -> None:
    async def main() -> None:
        async with scene("one", "two") as stage:
            asked = await stage.ask(sequence := make_sequence("s"))
            stage.accept(sequence, "one")
            (call,) = stage.handle.calls
            if how == "replica":
                call.end.set_exception(ActorDiedError())
            else:
                call.end.set_result(death("s"))
                await until(lambda: set(stage.fleet.reports) == {"two"})
            await until(lambda: len(stage.handle.calls) == 2)
            stage.accept(sequence, "two")
            stage.handle.streams["two"][0].say(last("s", 1))
            assert await asked == [1]

    asyncio.run(main())


def test_a_request_that_two_replicas_died_of_goes_to_no_third() -> None:
    async def main() -> None:
        async with scene("one", "two", "three") as stage:
            asked = await stage.ask(make_sequence("s"))
            for number in (1, 2):
                await until(lambda number=number: len(stage.handle.calls) == number)
                stage.handle.calls[-1].end.set_exception(ActorDiedError())
            with pytest.raises(EngineNotReadyError, match="the engine that ran this request"):
                await asked
            assert len(stage.handle.calls) == 2

    asyncio.run(main())


def test_an_answer_that_had_begun_where_it_died_is_not_begun_again() -> None:
    async def main() -> None:
        async with scene("one", "two") as stage:
            asked = await stage.ask(sequence := make_sequence("s"))
            stage.accept(sequence, "one")
            (stream,) = stage.handle.streams["one"]
            stream.say(TokenOutput("s", 1))
            await until(stream.said.empty)
            await asyncio.sleep(0.01)
            stage.handle.calls[0].end.set_exception(ActorDiedError())
            with pytest.raises(EngineNotReadyError, match="the engine that ran this request"):
                await asked
            assert len(stage.handle.calls) == 1

    asyncio.run(main())


def test_requests_that_the_last_engine_had_not_taken_end_when_it_dies() -> None:
    """Ray kept them until another engine had loaded, for minutes, and then sent it all at once."""

    async def main() -> None:
        async with scene("one") as stage:
            waiting = make_sequence("waiting")
            never_sent = await stage.ask(make_sequence("never sent"))
            on_its_way = await stage.ask(waiting)
            stage.fleet.choose("waiting", prompt_key(waiting))
            stage.fleet.lost("one")
            for asked in (never_sent, on_its_way):
                with pytest.raises(EngineNotReadyError, match="last engine"):
                    await asked
            await until(lambda: all(call.is_cancelled for call in stage.handle.calls))
            assert stage.engine.num_open == 0
            with pytest.raises(EngineNotReadyError):
                await (await stage.ask(make_sequence("late")))
            assert len(stage.handle.calls) == 2

    asyncio.run(main())


def test_a_request_that_a_leaving_engine_has_taken_runs_to_its_end() -> None:
    """An update takes the last old one off the list; it finishes what it has."""

    async def main() -> None:
        async with scene("one") as stage:
            sequence = make_sequence("s")
            asked = await stage.ask(sequence)
            stage.accept(sequence, "one")
            stage.fleet.update({})
            other = await stage.ask(make_sequence("late"))
            with pytest.raises(EngineNotReadyError):
                await other
            stage.handle.streams["one"][0].say(last("s", 1))
            assert await asked == [1]
            assert not stage.handle.calls[0].is_cancelled

    asyncio.run(main())


def test_requests_wait_for_another_engine_while_there_is_one() -> None:
    async def main() -> None:
        async with scene("one", "two") as stage:
            sequence = make_sequence("s")
            asked = await stage.ask(sequence)
            stage.fleet.lost("one")
            stage.accept(sequence, "two")
            stage.handle.streams["two"][0].say(last("s", 1))
            assert await asked == [1]

    asyncio.run(main())


def test_a_change_does_not_keep_a_server_from_going_down() -> None:
    """The watcher went on, and `stop` waited for it for ever."""

    async def main() -> None:
        async with scene("one") as stage:
            for num_turns in range(6):
                await asyncio.sleep(0.01)  # the watcher waits
                stage.fleet.update({"one": REPORT})
                for _ in range(num_turns):
                    await asyncio.sleep(0)
                async with asyncio.timeout(20):
                    await stage.engine.stop()
                stage.engine.start()

    asyncio.run(main())


def test_a_server_that_goes_down_cancels_its_calls() -> None:
    async def main() -> None:
        async with scene("one") as stage:
            asked = await stage.ask(make_sequence("s"))
            await stage.engine.stop()
            with pytest.raises(EngineNotReadyError, match="going down"):
                await asked
            await until(lambda: stage.handle.calls[0].is_cancelled)

    asyncio.run(main())
