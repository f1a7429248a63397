"""Which engine gets a request: known beginnings and pictures first, load second."""

from collections.abc import Iterable

import pytest

from scoring.router import (
    BUSY,
    CHUNK_TOKENS,
    KNOWN_WORTH,
    KNOWN_WORTH_WHERE_BUSY,
    MAX_CHUNKS,
    MAX_PICTURES,
    Router,
    chunk_hashes,
    rank,
)
from scoring.sequence import Sequence

from .scripted import make_picture, make_sequence

SYSTEM = [7] * (2 * CHUNK_TOKENS)  # a beginning that many prompts have


def text(*numbers: int, before: Iterable[int] = ()) -> Sequence:
    """A prompt of one chunk for each number, alike only for the same numbers, and one token."""
    tokens = [number for number in numbers for _ in range(CHUNK_TOKENS)]
    return make_sequence(prompt=[*before, *tokens, 1])


def about(picture: str, *, question: int = 1, num_tokens: int = 200, start: int = 5) -> Sequence:
    """A question, a picture, and 100 tokens of text."""
    prompt = [question] * start + [-1] * num_tokens + [question] * 100
    return make_sequence(prompt=prompt, pictures={start: make_picture(picture, num_tokens)})


def margin(num_known: int) -> int:
    """The load, beside one idle engine, up to which a prompt goes where it is known."""
    return int(KNOWN_WORTH_WHERE_BUSY * num_known / (1 - BUSY / 2))


def test_a_prompt_goes_where_its_beginning_is_known() -> None:
    router = Router(3)
    homes = [router.route(text(number), [0, 0, 0]) for number in (1, 2, 3)]
    assert sorted(homes) == [0, 1, 2]
    for number, home in zip((1, 2, 3), homes, strict=True):
        assert router.route(text(number, 9), [0, 0, 0]) == home


def test_the_longest_known_beginning_counts() -> None:
    router = Router(2)
    short = router.route(text(1, 2), [0, 0])
    long = router.route(text(1, 2, 3, 4), [None if i == short else 0 for i in range(2)])
    assert long != short
    assert router.route(text(1, 2, 3, 9), [0, 0]) == long


def test_what_follows_a_difference_is_not_known() -> None:
    """The same text behind other text has other keys."""
    router = Router(2)
    home = router.route(text(1, 2, 3), [0, 0])
    assert router.route(text(8, 2, 3), [0, 0]) != home


def test_unknown_prompts_go_to_the_least_loaded() -> None:
    router = Router(3)
    assert router.route(text(1), [50, 10, 20]) == 1
    assert router.route(text(2), [50, 60, 20]) == 2
    assert router.route(text(3), [0, 60, 20]) == 0


def test_equals_take_turns() -> None:
    router = Router(3)
    assert [router.route(make_sequence(), [0, 0, 0]) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_busy_engine_gets_what_it_knows_only_up_to_a_margin() -> None:
    load = margin(CHUNK_TOKENS)
    for more, is_routed_home in ((-1, True), (1, False)):
        router = Router(2)
        assert router.route(text(1), [0, 0]) == 0
        assert (router.route(text(1, 2), [load + more, 0]) == 0) == is_routed_home


def test_an_engine_that_is_hardly_busier_than_the_others_gets_what_it_knows() -> None:
    """However much all of them have to do."""
    for load in (1_000, 10_000, 100_000):
        loads = [round(BUSY * load), load, load // 2]
        assert rank(loads, [load // 20, 0, 0], [0, 0, 0])[0] == 0
        assert rank([load * 2, load // 2, load // 2], [load // 20, 0, 0], [0, 0, 0])[0] != 0


def test_a_few_known_tokens_are_not_worth_much_waiting() -> None:
    loads = [50_000, 49_000, 48_000]
    worth_it = 2_000 // KNOWN_WORTH
    assert rank(loads, [worth_it - 1, 0, 0], [0, 0, 0])[0] == 2
    assert rank(loads, [worth_it + 1, 0, 0], [0, 0, 0])[0] == 0


def test_where_a_prompt_had_to_go_it_is_known_from_then_on() -> None:
    router = Router(2)
    assert router.route(text(1, 2), [0, 0]) == 0
    assert router.route(text(1, 2), [10_000, 0]) == 1
    assert router.route(text(1, 2), [11, 10]) == 1
    assert router.route(text(1, 2), [10, 11]) == 0


def test_a_beginning_that_all_prompts_have_spreads_over_idle_engines() -> None:
    """Four users with long texts of their own: what they share is worth no waiting."""
    router, loads = Router(2), [0, 0]
    for number in range(4):
        sequence = text(*[10 + number] * 20, before=SYSTEM)
        loads[router.route(sequence, loads)] += sequence.num_prompt_tokens
    assert loads[0] == loads[1]


def test_requests_about_one_picture_land_together() -> None:
    """Whatever is asked, and though their texts differ from the first token on."""
    router, loads = Router(2), [0, 0]
    homes: dict[str, set[int]] = {"cat": set(), "dog": set()}
    for question in range(3):
        for picture, seen in homes.items():
            sequence = about(picture, question=question)
            index = router.route(sequence, loads)
            loads[index] += sequence.num_prompt_tokens
            seen.add(index)
    assert sorted(map(len, homes.values())) == [1, 1]
    assert homes["cat"] != homes["dog"]


def test_a_picture_is_not_counted_twice() -> None:
    """It lies in the known beginning, and is known by itself."""
    prompt = [1] * 28 + [-1] * 100 + [2] * 200
    asked = make_sequence(prompt=prompt, pictures={28: make_picture("cat", 100)})
    router = Router(2)
    assert router.route(asked, [0, 0]) == 0
    load = margin(len(prompt) // CHUNK_TOKENS * CHUNK_TOKENS)
    assert router.route(asked, [load + 1, 0]) == 1


def test_engines_that_take_none_are_never_chosen() -> None:
    router = Router(3)
    assert router.route(text(1), [None, None, 5]) == 2
    assert router.route(text(1), [None, 9_000, None]) == 1
    for _ in range(4):
        assert router.route(text(1), [0, None, None]) == 0
    with pytest.raises(ValueError, match="empty"):
        router.route(text(1), [None, None, None])


def test_chunks_are_named_by_tokens_pictures_places_and_salt() -> None:
    prompt, picture, other = [-1] * CHUNK_TOKENS, make_picture("cat", 40), make_picture("dog", 40)
    prompts = [
        make_sequence(prompt=prompt),
        make_sequence(prompt=prompt, salt=b"tenant"),
        make_sequence(prompt=prompt, pictures={0: picture}),
        make_sequence(prompt=prompt, pictures={9: picture}),
        make_sequence(prompt=prompt, pictures={0: other}),
        make_sequence(prompt=[3] * CHUNK_TOKENS),
    ]
    names = [chunk_hashes(sequence) for sequence in prompts]
    assert [len(name) for name in names] == [1] * len(prompts)
    assert len({name[0] for name in names}) == len(prompts)
    assert chunk_hashes(prompts[3]) == names[3]
    assert chunk_hashes(make_sequence(prompt=prompt[1:])) == []


def test_old_beginnings_are_forgotten_from_their_ends() -> None:
    """Memory is bounded: what was not seen for longest goes, and of a prompt its end first."""
    worth = margin(2 * CHUNK_TOKENS)  # of the two chunks that there was room for
    for load, home in ((worth - 1, 0), (worth + 1, 1)):
        router = Router(2)
        assert router.route(text(1, 2, 3, 4), [0, None]) == 0
        router.route(text(*range(100, 98 + MAX_CHUNKS)), [0, None])
        assert router.route(text(1, 2, 3, 4), [load, 0]) == home


def test_a_prompt_seen_again_is_remembered_longer() -> None:
    router = Router(2)
    for first in (100, 200):
        router.route(text(1), [0, None])
        router.route(text(*range(first, first + MAX_CHUNKS - 1)), [0, None])
    assert router.route(text(1), [1, 0]) == 0
    assert router.route(text(100), [1, 0]) == 1


def test_old_pictures_are_forgotten() -> None:
    router = Router(2)
    for number in range(MAX_PICTURES + 1):
        router.route(about(f"picture {number}", num_tokens=40), [0, None])
    assert router.route(about("picture 1", question=2, num_tokens=40), [1, 0]) == 0
    assert router.route(about("picture 0", question=3, num_tokens=40), [1, 0]) == 1
