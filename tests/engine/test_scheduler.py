"""Who runs next, and how many tokens of each."""

from collections.abc import Mapping

import pytest

from scoring.scheduler import SampledToken, ScheduledRow, Scheduler
from scoring.sequence import FinishReason, Logprobs, Sequence, TokenOutput

from .scripted import assert_accounted, assert_idle, make_picture, make_scheduler, make_sequence


def step(
    scheduler: Scheduler, tokens: Mapping[str, int | None] | None = None
) -> tuple[list[ScheduledRow], list[TokenOutput]]:
    """One step in which every row that emits says the listed token, or 7."""
    rows = scheduler.schedule()
    scheduler.advance(rows)
    sampled = [
        SampledToken((tokens or {}).get(row.sequence.id, 7)) if row.emits else None for row in rows
    ]
    return rows, scheduler.update(rows, sampled)


def as_tuples(rows: list[ScheduledRow]) -> list[tuple[str, int, int]]:
    return [(row.sequence.id, row.start, row.end) for row in rows]


def add(scheduler: Scheduler, *sequences: Sequence) -> None:
    for sequence in sequences:
        scheduler.add(sequence)


def test_a_prompt_runs_whole_and_then_token_by_token():
    scheduler, sequence = make_scheduler(), make_sequence("a", range(10), max_tokens=3)
    scheduler.add(sequence)

    assert [as_tuples(step(scheduler)[0]) for _ in range(3)] == [
        [("a", 0, 10)],
        [("a", 10, 11)],
        [("a", 11, 12)],
    ]
    assert sequence.output_ids == [7, 7, 7]
    assert scheduler.schedule() == []
    assert_idle(scheduler)


def test_a_long_prompt_runs_in_chunks_and_emits_with_the_last():
    scheduler = make_scheduler(max_num_batched_tokens=4)
    scheduler.add(make_sequence("a", range(10)))

    steps = [step(scheduler) for _ in range(4)]

    assert [as_tuples(rows) for rows, _ in steps] == [
        [("a", 0, 4)],
        [("a", 4, 8)],
        [("a", 8, 10)],
        [("a", 10, 11)],
    ]
    assert [len(outputs) for _, outputs in steps] == [0, 0, 1, 1]


def test_decodes_come_first_and_prompts_share_what_is_left_of_the_budget():
    scheduler = make_scheduler(num_blocks=64, max_num_batched_tokens=8)
    add(scheduler, make_sequence("a", range(20)), make_sequence("b", [1, 2]))
    add(scheduler, make_sequence("c", range(30, 40)))

    assert as_tuples(step(scheduler)[0]) == [("a", 0, 8)]
    assert as_tuples(step(scheduler)[0]) == [("a", 8, 16)]
    assert as_tuples(step(scheduler)[0]) == [("a", 16, 20), ("b", 0, 2), ("c", 0, 2)]
    # Now a and b decode; they go before c's prompt.
    assert as_tuples(step(scheduler)[0]) == [("a", 20, 21), ("b", 2, 3), ("c", 2, 8)]
    # The single token left of c's prompt is the same work as a decode.
    assert as_tuples(step(scheduler)[0]) == [("a", 21, 22), ("b", 3, 4), ("c", 8, 10)]


def test_the_budget_is_never_exceeded():
    scheduler = make_scheduler(num_blocks=64, max_num_seqs=4, max_num_batched_tokens=5)
    for number in range(6):
        scheduler.add(make_sequence(str(number), range(number, number + 7), max_tokens=4))
    num_steps = 0
    while rows := step(scheduler)[0]:
        assert sum(row.num_tokens for row in rows) <= 5
        assert len(rows) <= scheduler.num_running + 4
        assert all(row.num_tokens > 0 for row in rows)
        num_steps += 1
    assert num_steps > 6 * 7 // 5
    assert_idle(scheduler)


def test_no_more_sequences_run_than_there_are_seats():
    scheduler = make_scheduler(max_num_seqs=2)
    add(scheduler, *(make_sequence(name, [1, 2], max_tokens=2) for name in "abc"))

    assert as_tuples(step(scheduler)[0]) == [("a", 0, 2), ("b", 0, 2)]
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    assert as_tuples(step(scheduler)[0]) == [("a", 2, 3), ("b", 2, 3)]
    assert as_tuples(step(scheduler)[0]) == [("c", 0, 2)]


def test_sequences_start_in_the_order_of_their_arrival():
    """A small one does not overtake a large one that has to wait for blocks."""
    scheduler = make_scheduler(num_blocks=4)
    add(scheduler, make_sequence("a", range(9), max_tokens=2))
    add(scheduler, make_sequence("large", range(20, 33), max_tokens=1), make_sequence("small", [1]))

    assert as_tuples(step(scheduler)[0]) == [("a", 0, 9)]
    assert as_tuples(step(scheduler)[0]) == [("a", 9, 10)]
    assert as_tuples(step(scheduler)[0]) == [("large", 0, 13)]
    assert as_tuples(step(scheduler)[0]) == [("small", 0, 1)]


def test_a_prompt_waits_until_there_are_blocks_for_all_of_it():
    scheduler = make_scheduler(num_blocks=4, max_num_batched_tokens=8)
    scheduler.add(make_sequence("a", range(5), max_tokens=3))
    step(scheduler)
    waiting = make_sequence("b", range(50, 59))
    scheduler.add(waiting)

    assert as_tuples(step(scheduler)[0]) == [("a", 5, 6)]
    assert waiting.block_table == []
    assert waiting.num_computed == 0


def test_the_newest_gives_way_when_blocks_run_out_and_loses_nothing():
    scheduler = make_scheduler(num_blocks=4)
    old, middle, new = (make_sequence(n, [ord(n)] * 4, max_tokens=6) for n in "abc")
    add(scheduler, old, middle, new)
    step(scheduler)
    assert scheduler.num_running == 3

    # The old one takes the last free block, the middle one what the new one gives back.
    assert as_tuples(step(scheduler)[0]) == [("a", 4, 5), ("b", 4, 5)]

    assert scheduler.num_preemptions == 1
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    assert new.block_table == []
    assert new.output_ids == [7]
    while step(scheduler)[0]:
        assert_accounted(scheduler.blocks, [old, middle, new])
    assert old.output_ids == middle.output_ids == new.output_ids == [7] * 6
    assert_idle(scheduler)


def test_the_newest_gives_way_even_to_itself():
    """Of two decodes the older takes the last block; the newer finds nobody newer."""
    scheduler = make_scheduler(num_blocks=3)
    old, new = make_sequence("old", [1] * 4, max_tokens=4), make_sequence("new", [2] * 4)
    add(scheduler, old, new)
    step(scheduler)

    assert as_tuples(step(scheduler)[0]) == [("old", 4, 5)]

    assert scheduler.num_preemptions == 1
    assert (new.block_table, new.num_computed, new.output_ids) == ([], 0, [7])


def test_only_as_many_give_way_as_must():
    scheduler = make_scheduler(num_blocks=6)
    old, middle, new = (make_sequence(n, [ord(n)] * 4, max_tokens=8) for n in "abc")
    add(scheduler, old, middle, new)
    for _ in range(5):
        step(scheduler)  # each has two blocks by now: all six

    rows, _ = step(scheduler)

    assert as_tuples(rows) == [("a", 8, 9), ("b", 8, 9)]
    assert scheduler.num_preemptions == 1
    assert new.block_table == []
    assert new.output_ids == [7] * 5


def test_a_preempted_sequence_goes_before_those_that_never_ran():
    scheduler = make_scheduler(num_blocks=3, max_num_seqs=2)
    add(scheduler, *(make_sequence(n, [ord(n)] * 4, max_tokens=3) for n in "abc"))
    step(scheduler)

    # b gives way and now needs two blocks; c would do with the one that is left.
    assert as_tuples(step(scheduler)[0]) == [("a", 4, 5)]
    assert scheduler.num_preemptions == 1

    order = []
    while rows := step(scheduler)[0]:
        order += [row.sequence.id for row in rows if row.sequence.id not in order]

    assert order == ["a", "b", "c"]


def test_the_newest_gives_way_in_the_middle_of_its_prompt():
    scheduler = make_scheduler(num_blocks=6, max_num_seqs=2, max_num_batched_tokens=3)
    old, new = make_sequence("old", [1, 2, 3], max_tokens=9), make_sequence("new", range(50, 65))
    add(scheduler, old, new)
    while not scheduler.num_preemptions:
        rows, _ = step(scheduler)
        assert rows[0].sequence is old

    assert [row.sequence for row in rows] == [old]
    assert (new.block_table, new.num_computed, new.output_ids) == ([], 0, [])
    while old.num_output_tokens < 9:
        assert step(scheduler)[0][0].sequence is old
    while new.num_output_tokens == 0:
        step(scheduler)
    assert new.num_computed == 15


def test_a_preempted_sequence_finds_its_own_blocks_again():
    scheduler = make_scheduler(num_blocks=4)
    add(scheduler, make_sequence("a", range(7), max_tokens=3), make_sequence("b", range(20, 28)))
    step(scheduler)
    assert as_tuples(step(scheduler)[0]) == [("a", 7, 8)]  # b gives way: it needs a third block
    assert scheduler.num_preemptions == 1

    rows = []
    while not rows or rows[-1].sequence.id != "b":
        rows, _ = step(scheduler)

    # Of its nine tokens (one of them an output) a complete block at least was still there.
    assert rows[-1].start >= 4
    assert rows[-1].end == 9


def test_outgrowing_the_short_rope_regime_computes_all_keys_anew():
    scheduler = make_scheduler(short_rope_len=6)
    sequence = make_sequence("a", range(5), max_tokens=4)
    scheduler.add(sequence)

    assert as_tuples(step(scheduler)[0]) == [("a", 0, 5)]
    assert as_tuples(step(scheduler)[0]) == [("a", 5, 6)]
    assert not sequence.long_rope
    assert as_tuples(step(scheduler)[0]) == [("a", 0, 7)]
    assert sequence.long_rope
    assert as_tuples(step(scheduler)[0]) == [("a", 7, 8)]
    assert scheduler.num_preemptions == 0


def test_crossing_in_chunks_waits_for_the_whole_recomputation():
    scheduler = make_scheduler(short_rope_len=6, max_num_batched_tokens=4)
    sequence = make_sequence("a", range(6), max_tokens=3)
    add(scheduler, sequence)
    step(scheduler), step(scheduler)
    assert sequence.num_output_tokens == 1

    assert as_tuples(step(scheduler)[0]) == [("a", 0, 4)]
    assert as_tuples(step(scheduler)[0]) == [("a", 4, 7)]
    assert sequence.num_output_tokens == 2


def test_a_prompt_at_the_limit_is_short_and_one_beyond_it_long():
    for num_tokens, is_long in ((6, False), (7, True)):
        scheduler, sequence = (
            make_scheduler(short_rope_len=6),
            make_sequence(prompt=[1] * num_tokens),
        )
        scheduler.add(sequence)
        scheduler.schedule()
        assert sequence.long_rope is is_long


def test_regimes_are_each_sequences_own():
    scheduler = make_scheduler(short_rope_len=6)
    short, long = make_sequence("short", range(3)), make_sequence("long", range(9))
    add(scheduler, short, long)

    step(scheduler)

    assert (short.long_rope, long.long_rope) == (False, True)


def test_keys_of_one_regime_are_not_reused_in_the_other():
    scheduler = make_scheduler(short_rope_len=8)
    scheduler.add(make_sequence("short", range(8), max_tokens=1))
    step(scheduler)

    scheduler.add(make_sequence("long", range(12), max_tokens=1))
    assert as_tuples(step(scheduler)[0]) == [("long", 0, 12)]
    # Each finds what its own regime has left.
    scheduler.add(make_sequence("short_again", range(8), max_tokens=1))
    assert as_tuples(step(scheduler)[0]) == [("short_again", 4, 8)]
    scheduler.add(make_sequence("long_again", range(12), max_tokens=1))
    assert as_tuples(step(scheduler)[0]) == [("long_again", 8, 12)]


def test_a_cached_prefix_is_not_computed_again_and_is_reported():
    scheduler = make_scheduler()
    scheduler.add(make_sequence("a", range(10), max_tokens=1))
    step(scheduler)
    scheduler.add(make_sequence("b", [*range(8), 90, 91], max_tokens=2))

    rows, outputs = step(scheduler)

    assert as_tuples(rows) == [("b", 8, 10)]
    assert outputs[0].num_cached == 8
    assert step(scheduler)[1][0].num_cached == 8


def test_a_sequences_own_blocks_do_not_count_as_cached():
    """Preempted in the middle of its prompt, it finds what it had computed itself."""
    scheduler = make_scheduler(num_blocks=6, max_num_seqs=2, max_num_batched_tokens=3)
    old, new = make_sequence("old", [1, 2, 3], max_tokens=9), make_sequence("new", range(50, 65))
    add(scheduler, old, new)
    outputs = []
    while new.num_output_tokens == 0:
        outputs = step(scheduler)[1]
    assert scheduler.num_preemptions > 0

    assert outputs[-1].sequence_id == "new"
    assert outputs[-1].num_cached == 0


@pytest.mark.parametrize(
    ("options", "said", "reason", "num_output"),
    [
        ({"max_tokens": 3}, 7, FinishReason.LENGTH, 3),
        ({"max_tokens": 1}, 7, FinishReason.LENGTH, 1),
        ({"max_tokens": 1000}, 7, FinishReason.LENGTH, 7),  # the context: 10 tokens
        ({"stop": [7]}, 7, FinishReason.STOP, 1),
        ({"stop": [7, 8], "max_tokens": 1}, 8, FinishReason.STOP, 1),
        ({"stop": [8], "max_tokens": 2}, 7, FinishReason.LENGTH, 2),
    ],
)
def test_a_sequence_ends_for_its_reason(options, said, reason, num_output):
    scheduler = make_scheduler(max_model_len=10)
    sequence = make_sequence("a", range(3), **options)
    scheduler.add(sequence)
    outputs = []
    while scheduler.num_running + scheduler.num_waiting:
        outputs += step(scheduler, {"a": said})[1]

    assert [output.finish_reason for output in outputs[:-1]] == [None] * (num_output - 1)
    assert outputs[-1].finish_reason is reason
    assert [output.token_id for output in outputs] == [said] * num_output
    assert sequence.output_ids == [said] * num_output
    assert_idle(scheduler)


def test_a_stop_token_in_the_prompt_ends_nothing():
    scheduler = make_scheduler()
    scheduler.add(make_sequence("a", [5, 5, 5], stop=[5], max_tokens=2))

    assert step(scheduler)[1][0].finish_reason is None


def test_logprobs_are_passed_on():
    scheduler = make_scheduler()
    scheduler.add(make_sequence("a"))
    logprobs = Logprobs(-0.5, ((7, -0.5), (8, -2.0)))

    rows = scheduler.schedule()
    scheduler.advance(rows)
    (output,) = scheduler.update(rows, [SampledToken(7, logprobs)])

    assert output.logprobs is logprobs


def test_a_row_that_is_not_finite_ends_in_an_error_and_the_others_go_on():
    scheduler = make_scheduler()
    bad, good = make_sequence("bad", range(5)), make_sequence("good", range(20, 25), max_tokens=3)
    add(scheduler, bad, good)
    step(scheduler)

    _, outputs = step(scheduler, {"bad": None})

    assert [(o.sequence_id, o.finish_reason, o.token_id) for o in outputs] == [
        ("bad", FinishReason.ERROR, None),
        ("good", None, 7),
    ]
    assert outputs[0].error
    assert bad.output_ids == [7]
    assert_accounted(scheduler.blocks, [good])
    step(scheduler)
    assert_idle(scheduler)


def test_the_blocks_of_a_row_that_was_not_finite_are_not_reused():
    """Its keys may be what was not finite: whoever came after with the same beginning would read
    them and fail in turn, until they were evicted."""
    scheduler = make_scheduler()
    scheduler.add(make_sequence("bad", range(9)))
    step(scheduler, {"bad": None})
    scheduler.add(make_sequence("again", range(9)))

    rows, _ = step(scheduler)

    assert as_tuples(rows) == [("again", 0, 9)]


def test_a_waiting_sequence_leaves():
    scheduler = make_scheduler(max_num_seqs=1)
    running, waiting, last = make_sequence("a"), make_sequence("b"), make_sequence("c")
    add(scheduler, running, waiting, last)
    step(scheduler)

    scheduler.abort(waiting)

    assert (scheduler.num_running, scheduler.num_waiting) == (1, 1)
    scheduler.abort(running)
    assert as_tuples(step(scheduler)[0]) == [("c", 0, 3)]


def test_a_sequence_leaves_in_the_middle_of_its_prompt():
    scheduler = make_scheduler(max_num_batched_tokens=4)
    sequence = make_sequence("a", range(10))
    scheduler.add(sequence)
    step(scheduler)

    scheduler.abort(sequence)

    assert scheduler.schedule() == []
    assert_idle(scheduler)
    assert scheduler.blocks.num_cached == 1  # its complete block may serve the next


def test_a_decoding_sequence_leaves():
    scheduler, sequence = make_scheduler(), make_sequence("a", range(4))
    scheduler.add(sequence)
    step(scheduler), step(scheduler)

    scheduler.abort(sequence)

    assert scheduler.schedule() == []
    assert_idle(scheduler)


def test_a_preempted_sequence_leaves():
    scheduler = make_scheduler(num_blocks=2)
    old, new = make_sequence("old", [1] * 4, max_tokens=3), make_sequence("new", [2] * 4)
    add(scheduler, old, new)
    step(scheduler), step(scheduler)
    assert scheduler.num_preemptions == 1

    scheduler.abort(new)

    assert as_tuples(step(scheduler)[0]) == [("old", 5, 6)]
    assert_idle(scheduler)


def test_leaving_twice_or_never_having_come_is_harmless():
    scheduler, sequence = make_scheduler(), make_sequence("a")
    scheduler.abort(sequence)
    scheduler.add(sequence)
    step(scheduler)
    scheduler.abort(sequence)
    scheduler.abort(sequence)

    assert_idle(scheduler)


def test_a_picture_may_be_cut_by_the_end_of_a_chunk():
    scheduler = make_scheduler(max_num_batched_tokens=4)
    prompt = [1, *[-1] * 9, 2]
    scheduler.add(make_sequence("a", prompt, pictures={1: make_picture("chart", 9)}))

    assert [as_tuples(step(scheduler)[0]) for _ in range(3)] == [
        [("a", 0, 4)],
        [("a", 4, 8)],
        [("a", 8, 11)],
    ]


def test_blocks_for_less_than_one_sequence_are_refused():
    with pytest.raises(ValueError, match="max_model_len"):
        make_scheduler(num_blocks=4, block_size=4, max_model_len=17)


def test_a_budget_for_less_than_a_token_per_seat_is_refused():
    with pytest.raises(ValueError, match="max_num_batched_tokens must be at least max_num_seqs"):
        make_scheduler(max_num_seqs=8, max_num_batched_tokens=7)


def test_a_sequence_without_a_next_token_is_told_the_samplers_reason():
    s = make_scheduler()
    s.add(make_sequence("a"))
    rows = s.schedule()
    s.advance(rows)

    (output,) = s.update(rows, [SampledToken(None, error="no token was allowed to come next")])

    assert output.error == "no token was allowed to come next"
