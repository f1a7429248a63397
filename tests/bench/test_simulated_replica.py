"""The replica of the simulation: the real scheduler's steps, each as long as the step times say."""

import random
from itertools import islice

import numpy as np
import pytest

from benchmark.cluster.replica import SimulatedReplica, Sizes
from benchmark.cluster.step_times import StepShape
from benchmark.cluster.trace import LONGEST, Habits, chats
from scoring.errors import EngineOverloadedError
from scoring.image_processor import HDPicture
from scoring.sequence import ImageSpan, SamplingParams, Sequence

from .simulated import TIMES, run_until_idle

SIZES = Sizes(max_num_seqs=6, cache_tokens=1 << 17)


def text(name: str, prompt: list[int], num_answer: int, images=()) -> tuple[Sequence, list[int]]:
    sequence = Sequence(name, prompt, SamplingParams(max_tokens=num_answer), images)
    return sequence, list(range(1, num_answer + 1))


def about(name: str, digest: bytes, question: int) -> tuple[Sequence, list[int]]:
    """A picture of two crops and the global view, with 100 slots, and a question of 28 tokens."""
    picture = HDPicture(np.zeros((336, 672, 3), dtype=np.uint8), digest, 100)
    return text(name, [-1] * 100 + [question] * 28, 1, (ImageSpan(picture, 0),))


def chats_of(seed: int) -> list[tuple[float, Sequence, list[int]]]:
    """Every turn of some chats, and when it is asked."""
    found = []
    for chat in islice(chats(1, seed, Habits()), 24):
        when = 0.0
        for number, turn in enumerate(chat.turns):
            when += 20.0 + turn.think_s if number else turn.think_s / 5
            found.append((when, chat.sequence(number), chat.answer(number)))
    return sorted(found, key=lambda entry: entry[0])


def test_a_request_takes_as_long_as_its_steps() -> None:
    times = run_until_idle(SimulatedReplica(TIMES, SIZES), [(3.0, *text("a", [7] * 100, 3))])
    prompt = TIMES.seconds(StepShape(tokens=100, context=0, pairs=5050, crops=0))
    steps = [
        TIMES.seconds(StepShape(tokens=1, context=context, pairs=0, crops=0))
        for context in (100, 101)
    ]
    assert times["a"] == pytest.approx(list(np.cumsum([3.0 + prompt, *steps])), abs=1e-9)


def test_a_known_picture_is_not_computed_again() -> None:
    replica = SimulatedReplica(TIMES, SIZES)
    arrivals = [(0.0, *about("a", b"cat", 1)), (9.0, *about("b", b"cat", 2))]
    times = run_until_idle(replica, arrivals)
    known = 96  # the blocks that are the picture's alone
    first = TIMES.seconds(StepShape(128, 0, 128 * 129 / 2, crops=3))
    second = TIMES.seconds(StepShape(32, 0, 32 * known + 32 * 33 / 2, crops=0))
    assert times == {"a": [pytest.approx(first)], "b": [pytest.approx(9.0 + second)]}
    assert arrivals[1][1].num_cached == known


def test_an_evicted_picture_costs_its_crops_again() -> None:
    room = Sizes(feature_cache_bytes=150 * 6144, cache_tokens=LONGEST)  # for one of the two
    arrivals = [
        (0.0, *about("a", b"cat", 1)),
        (3.0, *about("b", b"dog", 1)),
        (6.0, *about("c", b"cat", 2)),
        (9.0, *about("d", b"cat", 3)),
    ]
    times = run_until_idle(SimulatedReplica(TIMES, room), arrivals)
    took = [times[name][0] - when for when, name in ((6.0, "c"), (9.0, "d"))]
    assert took[0] - took[1] == pytest.approx(3 * TIMES.per_crop)


@pytest.mark.parametrize("seed", range(3))
def test_chats_get_all_their_tokens_and_leave_nothing(seed: int) -> None:
    replica = SimulatedReplica(TIMES, SIZES)
    arrivals = chats_of(seed)
    times = run_until_idle(replica, arrivals)
    for when, sequence, answer in arrivals:
        assert sequence.output_ids == answer
        assert len(times[sequence.id]) == len(answer)
        assert times[sequence.id][0] > when
        assert not sequence.long_rope
    assert len(arrivals) > 20
    assert (replica.num_open, replica.num_tokens) == (0, 0)
    assert replica.blocks.num_available == replica.blocks.num_blocks


def test_later_turns_find_the_earlier_ones() -> None:
    arrivals = chats_of(1)
    run_until_idle(SimulatedReplica(TIMES, SIZES), arrivals)
    later = [sequence for _, sequence, _ in arrivals if not sequence.id.endswith("-0")]
    assert later
    by_id = {sequence.id: sequence for _, sequence, _ in arrivals}
    for sequence in later:
        chat, number = sequence.id.rsplit("-", 1)
        before = by_id[f"{chat}-{int(number) - 1}"]
        known = (len(before.token_ids) - 1) // SIZES.block_size * SIZES.block_size
        assert sequence.num_cached == known


def test_where_the_cache_is_short_the_newest_give_way_and_all_are_answered() -> None:
    numbers = random.Random(4)
    replica = SimulatedReplica(TIMES, Sizes(max_num_seqs=16, cache_tokens=LONGEST))
    arrivals = []
    for number in range(60):
        prompt = [numbers.randrange(1000) for _ in range(numbers.randrange(100, 500))]
        arrivals.append((number * 0.02, *text(str(number), prompt, numbers.randrange(1, 900))))
    run_until_idle(replica, arrivals)
    assert replica.num_preemptions > 0
    assert all(sequence.output_ids == answer for _, sequence, answer in arrivals)
    assert replica.blocks.num_available == replica.blocks.num_blocks


@pytest.mark.parametrize("bound", [{"max_queued": 3}, {"max_queued_tokens": 50}])
def test_what_is_beyond_its_bounds_is_refused(bound: dict[str, int]) -> None:
    replica = SimulatedReplica(TIMES, Sizes(max_num_seqs=2, **bound))
    for number in range(5):
        replica.submit(*text(str(number), [1] * 10, 5), 0.0)
    with pytest.raises(EngineOverloadedError):
        replica.submit(*text("more", [1] * 10, 5), 0.0)
    while replica.due is not None:
        replica.advance()
    replica.submit(*text("more", [1] * 10, 5), 9.0)


def test_a_giant_does_the_work_of_so_many_in_the_same_time() -> None:
    """Without a cache to share: 8 times the requests, on 8 times the sizes and speed."""

    def seconds(fold: int) -> float:
        replica = SimulatedReplica(TIMES, SIZES.times(fold), fold)
        ids = np.random.default_rng(5)
        arrivals = [
            (0.0, *text(str(number), ids.integers(0, 1000, 200).tolist(), 50))
            for number in range(24 * fold)
        ]
        run_until_idle(replica, arrivals)
        return replica.busy_s

    assert seconds(8) == pytest.approx(seconds(1), rel=0.1)
