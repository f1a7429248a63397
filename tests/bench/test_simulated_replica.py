"""The replica of the simulation goes as the real scheduler does, and many steps at a time."""

import random
from itertools import islice

import numpy as np
import pytest

from benchmark.cluster.replica import SimulatedReplica, Sizes
from benchmark.cluster.step_times import StepShape
from benchmark.cluster.trace import Habits, chats
from scoring.block_manager import BlockManager
from scoring.encoder_progress import CROP_PARTS
from scoring.errors import EngineOverloadedError
from scoring.scheduler import SampledToken, Scheduler
from scoring.sequence import SamplingParams, Sequence

from .simulated import TIMES, request_of, run_until_idle

SIZES = Sizes(max_num_seqs=6, cache_tokens=1 << 17)


def asked(seed: int) -> list[tuple[float, Sequence, list[int]]]:
    """(when, what, the answer): every turn of some chats. Their users come back when the answer has
    long been there: it is named when it has ended, where the real scheduler names it block by
    block."""
    found = []
    for chat in islice(chats(1, seed, Habits()), 24):
        when = 0.0
        for number, turn in enumerate(chat.turns):
            when += 20.0 + turn.think_s if number else turn.think_s / 5
            found.append((when, chat.sequence(number, 0), chat.answer(number)))
    return sorted(found, key=lambda entry: entry[0])


def real_times(requests: list[tuple[float, Sequence, list[int]]]) -> dict[str, tuple[float, float]]:
    """When the real scheduler gives each its first and its last token."""
    blocks = BlockManager(SIZES.cache_tokens // SIZES.block_size, SIZES.block_size)
    scheduler = Scheduler(
        blocks,
        max_num_seqs=SIZES.max_num_seqs,
        max_num_batched_tokens=SIZES.max_num_batched_tokens,
        max_model_len=8192,
        short_rope_len=8192,
        max_crops=SIZES.max_crops,
        prompt_share=TIMES.prompt_share,
        crops_share=TIMES.crop_parts_share / CROP_PARTS,
    )
    answers = {sequence.id: answer for _, sequence, answer in requests}
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    queue, now = list(requests), 0.0
    while queue or scheduler.num_running or scheduler.num_waiting:
        while queue and queue[0][0] <= now:
            scheduler.add(queue.pop(0)[1])
        rows = scheduler.schedule()
        if not rows:
            now = queue[0][0]
            continue
        tokens = context = pairs = crops = 0.0
        for row in rows:
            tokens += row.num_tokens
            if row.start >= row.sequence.num_prompt_tokens:
                context += row.start
            else:
                pairs += row.num_tokens * row.start + row.num_tokens * (row.num_tokens + 1) / 2
            crops += sum(job.end - job.first for job in row.encoder_jobs) / CROP_PARTS
        now += TIMES.seconds(StepShape(tokens, context, pairs, crops))
        scheduler.advance(rows)
        sampled = [
            SampledToken(answers[row.sequence.id][row.sequence.num_output_tokens - 1])
            if row.emits
            else None
            for row in rows
        ]
        for output in scheduler.update(rows, sampled):
            first.setdefault(output.sequence_id, now)
            last[output.sequence_id] = now
    return {name: (first[name], last[name]) for name in answers}


@pytest.mark.parametrize("seed", range(6))
def test_requests_begin_and_end_when_the_real_scheduler_says(seed: int) -> None:
    expected = real_times(asked(seed))
    replica, watches, arrivals, sequences = SimulatedReplica(TIMES, SIZES), {}, [], {}
    for when, sequence, answer in asked(seed):
        request, watches[sequence.id] = request_of(sequence, answer)
        arrivals.append((when, request))
        sequences[sequence.id] = sequence
    run_until_idle(replica, arrivals)
    found = {name: (watch.first, watch.end) for name, watch in watches.items()}
    for name, times in expected.items():
        assert found[name] == pytest.approx(times, abs=1e-6), name
    assert len(expected) > 20


def test_it_finds_in_its_cache_what_the_real_scheduler_finds() -> None:
    requests = asked(1)
    real_times(requests)
    expected = {sequence.id: sequence.num_cached for _, sequence, _ in requests}
    arrivals = [(when, request_of(s, answer)[0]) for when, s, answer in asked(1)]
    run_until_idle(SimulatedReplica(TIMES, SIZES), arrivals)
    assert {r.sequence.id: r.sequence.num_cached for _, r in arrivals} == expected
    assert sum(expected.values()) > 0


def test_nothing_is_left_when_all_have_ended() -> None:
    replica = SimulatedReplica(TIMES, SIZES)
    arrivals = [(when, request_of(s, answer)[0]) for when, s, answer in asked(2)]
    run_until_idle(replica, arrivals)
    assert (replica.num_open, replica.num_tokens) == (0, 0)
    assert replica.blocks.num_available == replica.blocks.num_blocks
    assert replica.num_said == sum(len(request.answer) for _, request in arrivals)


def test_where_the_cache_is_short_the_newest_give_way_and_all_are_answered() -> None:
    numbers = random.Random(4)
    sizes = Sizes(max_num_seqs=16, cache_tokens=64 * 40)
    arrivals, watches = [], []
    for number in range(60):
        prompt = [numbers.randrange(1000) for _ in range(numbers.randrange(100, 500))]
        sequence = Sequence(str(number), prompt, SamplingParams(max_tokens=900))
        request, watch = request_of(sequence, [7] * numbers.randrange(1, 900))
        arrivals.append((number * 0.02, request))
        watches.append(watch)
    replica = SimulatedReplica(TIMES, sizes)
    run_until_idle(replica, arrivals)
    assert replica.num_preemptions > 0
    assert all(watch.end is not None for watch in watches)
    assert replica.blocks.num_available == replica.blocks.num_blocks
    assert (replica.num_open, replica.num_tokens) == (0, 0)


def test_what_is_beyond_its_bounds_is_refused() -> None:
    replica = SimulatedReplica(TIMES, Sizes(max_num_seqs=2, max_queued=3))
    for number in range(5):
        sequence = Sequence(str(number), [1] * 10, SamplingParams(max_tokens=5))
        replica.submit(request_of(sequence, [1] * 5)[0], 0.0)
    one_more = Sequence("more", [1] * 10, SamplingParams(max_tokens=5))
    with pytest.raises(EngineOverloadedError):
        replica.submit(request_of(one_more, [1] * 5)[0], 0.0)


def test_a_giant_does_the_work_of_so_many_in_the_same_time() -> None:
    """Without a cache to share: 8 times the requests, on 8 times the sizes and speed."""

    def seconds(fold: int) -> float:
        replica = SimulatedReplica(TIMES, SIZES.times(fold), fold)
        ids = np.random.default_rng(5)
        arrivals = []
        for number in range(24 * fold):
            prompt = ids.integers(0, 1000, 200).tolist()
            sequence = Sequence(str(number), prompt, SamplingParams(max_tokens=50))
            arrivals.append((0.0, request_of(sequence, [1] * 50)[0]))
        run_until_idle(replica, arrivals)
        return replica.busy_s

    assert seconds(8) == pytest.approx(seconds(1), rel=0.1)
