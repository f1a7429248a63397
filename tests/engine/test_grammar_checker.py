"""Grammars tried out in a process of their own, which some of them end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from scoring.errors import EngineOverloadedError, GrammarError
from scoring.grammar import Grammar, choice_grammar, json_grammar, regex_grammar
from scoring.grammar_checker import GrammarChecker

from .engine_processes import belongings, until

FINE = json_grammar({"type": "object"})
# Minutes, and gigabytes, if they were let.
MONSTERS = {
    "patterns that must all match": json_grammar(
        {"type": "string", "allOf": [{"pattern": f"a{i}"} for i in range(200)]}
    ),
    "keys that must not overlap": json_grammar(
        {"patternProperties": {f"^(x|y)*{i}z(x|y){{20}}$": {} for i in range(400)}}
    ),
    "a large multiple": json_grammar({"type": "integer", "multipleOf": 999983}),
}
TIMEOUT_S = 60


@pytest.fixture
def make_checker(shared: Path) -> Callable[[], GrammarChecker]:
    path = shared / "tiny-phi3v" / "tokenizer.json"
    return lambda: GrammarChecker(path, frozenset({2, 32000, 32001, 32007}))


@asynccontextmanager
async def opened(make_checker: Callable[[], GrammarChecker]) -> AsyncIterator[GrammarChecker]:
    checker = make_checker()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield checker
    finally:
        checker.close()


async def verdict(checker: GrammarChecker, grammar: Grammar) -> str | None:
    try:
        await checker.check(grammar)
    except GrammarError as error:
        return str(error)
    return None


def processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "scoring.grammar_process" in child.cmdline()]


def test_after_a_bad_grammar_a_good_one_is_as_good_as_before(make_checker):
    async def scenario() -> list[str | None]:
        async with opened(make_checker) as checker:
            tried = [FINE, regex_grammar("(a"), choice_grammar(["a", "b"]), Grammar("nonsense")]
            return [await verdict(checker, grammar) for grammar in [*tried, FINE]]

    first, bad_regex, choice, garbage, last = asyncio.run(scenario())

    assert (first, choice, last) == (None, None, None)
    assert bad_regex == "unclosed group"
    assert garbage


@pytest.mark.parametrize("name", MONSTERS)
def test_a_monster_is_refused_and_takes_nobody_with_it(make_checker, name):
    async def scenario() -> tuple[str | None, float, str | None]:
        async with opened(make_checker) as checker:
            await checker.check(FINE)
            used = psutil.Process().cpu_times()
            reason = await verdict(checker, MONSTERS[name])
            now = psutil.Process().cpu_times()
            spent = now.user - used.user + now.children_user - used.children_user
            return reason, spent, await verdict(checker, regex_grammar("after"))

    reason, spent, after = asyncio.run(scenario())

    assert reason == "it is too complex: compiling it takes more than 0.5 s or 128 MiB"
    assert spent < 2.0
    assert after is None


def test_the_event_loop_goes_on_while_a_monster_is_tried(make_checker):
    async def scenario() -> int:
        async with opened(make_checker) as checker:
            await checker.check(FINE)
            trying = asyncio.create_task(verdict(checker, MONSTERS["a large multiple"]))
            num_turns = 0
            while not trying.done():
                await asyncio.sleep(0.005)
                num_turns += 1
            return num_turns

    assert asyncio.run(scenario()) > 10


def test_what_is_known_is_not_asked_again(make_checker):
    async def scenario() -> None:
        async with opened(make_checker) as checker:
            await checker.check(FINE)
            bad = await verdict(checker, regex_grammar("(a"))
            (process,) = processes()
            process.kill()
            process.wait()
            await checker.check(FINE)
            assert await verdict(checker, regex_grammar("(a")) == bad
            assert processes() == []

    asyncio.run(scenario())


def test_it_remembers_a_bounded_number(make_checker):
    async def scenario() -> None:
        async with opened(make_checker) as checker:
            first = choice_grammar(["first"])
            await checker.check(first)
            for number in range(200):
                await checker.check(choice_grammar([str(number)]))
            (process,) = processes()
            process.kill()
            process.wait()
            await checker.check(choice_grammar(["199"]))
            assert processes() == []
            await checker.check(first)  # forgotten, so asked
            assert len(processes()) == 1

    asyncio.run(scenario())


def test_only_so_many_may_wait(make_checker):
    async def scenario() -> list[str | BaseException | None]:
        async with opened(make_checker) as checker:
            await checker.check(FINE)
            asked = [verdict(checker, choice_grammar([str(number)])) for number in range(140)]
            results = await asyncio.gather(*asked, return_exceptions=True)
            await checker.check(choice_grammar(["now there is room"]))
            return results

    results = asyncio.run(scenario())

    refused = [result for result in results if isinstance(result, EngineOverloadedError)]
    assert len(refused) == 12
    assert results.count(None) == 128


def test_who_leaves_before_its_turn_is_in_nobodys_way(make_checker):
    async def scenario() -> None:
        async with opened(make_checker) as checker:
            await checker.check(FINE)
            monster, other = MONSTERS["a large multiple"], MONSTERS["keys that must not overlap"]
            trying = asyncio.create_task(verdict(checker, monster))
            await asyncio.sleep(0.01)
            leaving = asyncio.create_task(verdict(checker, other))
            await asyncio.sleep(0.01)
            leaving.cancel()
            await asyncio.gather(trying, leaving, return_exceptions=True)
            assert leaving.cancelled()
            await checker.check(choice_grammar(["next"]))

    asyncio.run(scenario())


def test_nothing_is_left_of_it(make_checker, own_temp):
    async def scenario(number: int) -> None:
        async with opened(make_checker) as checker:
            await checker.check(FINE)
            await verdict(checker, MONSTERS["a large multiple"])
            await checker.check(choice_grammar([str(number)]))
            assert len(processes()) == 1

    asyncio.run(scenario(0))
    before = belongings()
    asyncio.run(scenario(1))

    assert belongings() == before
    assert processes() == []


def test_its_process_ends_when_it_is_closed_while_it_tries(make_checker):
    async def scenario() -> asyncio.Task[str | None]:
        async with opened(make_checker) as checker:
            await checker.check(FINE)
            trying = asyncio.create_task(verdict(checker, MONSTERS["a large multiple"]))
            await until(lambda: processes())
            await asyncio.sleep(0.05)
        return trying

    asyncio.run(scenario())

    assert processes() == []
