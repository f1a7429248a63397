"""The engine without a model: its door, its steps, and what one bad row may do."""

import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.engine import Engine
from scoring.errors import ContextLengthError, InvalidSequenceError
from scoring.scheduler import Scheduler
from scoring.sequence import FinishReason, Sequence, TokenOutput

from .scripted import (
    VOCAB_SIZE,
    ChecksumRunner,
    ScriptedRunner,
    assert_accounted,
    expected_output,
    make_engine,
    make_picture,
    make_scheduler,
    make_sequence,
)


def run_to_the_end(engine: Engine, max_steps: int = 500) -> list[TokenOutput]:
    outputs = []
    for _ in range(max_steps):
        if not engine.has_work:
            assert_idle(engine)
            return outputs
        outputs += engine.step()
    raise AssertionError("no end in sight")


def tokens_of(outputs: list[TokenOutput], sequence_id: str) -> list[int | None]:
    return [output.token_id for output in outputs if output.sequence_id == sequence_id]


def assert_idle(engine: Engine) -> None:
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks


def test_what_the_runner_says_comes_out():
    engine = make_engine(ScriptedRunner({"a": [5, 6, 9], "b": [8]}))
    engine.add(make_sequence("a", stop=[9]))
    engine.add(make_sequence("b", max_tokens=2))

    outputs = run_to_the_end(engine)

    assert [(o.sequence_id, o.token_id, o.finish_reason) for o in outputs] == [
        ("a", 5, None),
        ("b", 8, None),
        ("a", 6, None),
        ("b", 7, FinishReason.LENGTH),
        ("a", 9, FinishReason.STOP),
    ]


def test_a_step_without_work_does_nothing():
    runner = ScriptedRunner()
    engine = make_engine(runner)

    assert not engine.has_work
    assert engine.step() == []
    assert runner.batches == []


@pytest.mark.parametrize(
    "sequence",
    [
        make_sequence(prompt=[]),
        make_sequence(prompt=[1, -1, 2]),
        make_sequence(prompt=[-5]),
        make_sequence(prompt=[VOCAB_SIZE]),
        make_sequence(prompt=[1, 2**31]),
        make_sequence(max_tokens=0),
        make_sequence(max_tokens=-1),
    ],
    ids=["empty", "slot", "negative", "too_large", "far_too_large", "no_output", "less_output"],
)
def test_ids_that_the_model_does_not_have_are_refused_at_the_door(sequence):
    engine = make_engine(ScriptedRunner())

    with pytest.raises(InvalidSequenceError):
        engine.add(sequence)

    assert not engine.has_work
    assert engine.stats().num_waiting == 0


def test_the_largest_and_smallest_ids_pass():
    engine = make_engine(ScriptedRunner())

    engine.add(make_sequence(prompt=[0, VOCAB_SIZE - 1], max_tokens=1))

    assert len(run_to_the_end(engine)) == 1


CHART, PHOTO = make_picture("chart", 3), make_picture("photo", 2)
SLOTS = [1, -1, -1, -1, 2, -2, -2, 3]


@pytest.mark.parametrize(
    ("prompt", "pictures"),
    [
        (SLOTS, {}),
        (SLOTS, {1: CHART}),
        (SLOTS, {5: PHOTO}),
        (SLOTS, {5: PHOTO, 1: CHART}),  # out of order
        (SLOTS, {1: PHOTO, 5: CHART}),  # of the wrong sizes
        (SLOTS, {2: CHART, 5: PHOTO}),  # one too far to the right
        (SLOTS, {0: CHART, 5: PHOTO}),
        (SLOTS, {1: CHART, 6: PHOTO}),
        (SLOTS[:-2], {1: CHART, 5: PHOTO}),  # beyond the end
        (SLOTS, {-7: CHART, 5: PHOTO}),
        ([1, -2, -2, -2], {1: CHART}),
        ([1, 0, 0, 0], {1: CHART}),
        ([1, -1, 5, -1], {1: CHART}),
        ([1, -1, -1, -1, -1], {1: CHART}),  # a slot too many
        ([-1, -1, -1, 1], {1: CHART}),
        ([1, 2, 3], {1: make_picture("nothing", 0)}),
    ],
)
def test_pictures_that_do_not_match_their_slots_are_refused(prompt, pictures):
    engine = make_engine(ScriptedRunner())

    with pytest.raises(InvalidSequenceError):
        engine.add(make_sequence(prompt=prompt, pictures=pictures))

    assert not engine.has_work


@pytest.mark.parametrize(
    ("prompt", "pictures"),
    [
        (SLOTS, {1: CHART, 5: PHOTO}),
        ([-1, -1, -1, -2, -2], {0: CHART, 3: PHOTO}),
        ([1, -1, -1, -1], {1: CHART}),
    ],
)
def test_pictures_in_their_slots_pass(prompt, pictures):
    engine = make_engine(ScriptedRunner())

    engine.add(make_sequence(prompt=prompt, pictures=pictures, max_tokens=1))

    assert len(run_to_the_end(engine)) == 1


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused():
    engine = make_engine(ScriptedRunner(), make_scheduler(num_blocks=4))  # 16 tokens

    with pytest.raises(ContextLengthError, match=r"16 tokens.* may have 16"):
        engine.add(make_sequence(prompt=range(16)))

    engine.add(make_sequence(prompt=range(15)))
    (output,) = run_to_the_end(engine)
    assert output.finish_reason is FinishReason.LENGTH


def test_an_id_that_is_running_is_refused_and_the_running_one_goes_on():
    engine = make_engine(ScriptedRunner({"a": [5, 6]}))
    engine.add(make_sequence("a", max_tokens=2))

    with pytest.raises(InvalidSequenceError, match="id a"):
        engine.add(make_sequence("a", [9, 9]))

    assert tokens_of(run_to_the_end(engine), "a") == [5, 6]
    engine.add(make_sequence("a", max_tokens=1))  # now it may come again
    assert tokens_of(run_to_the_end(engine), "a") == [5]


def test_leaving_is_silent_and_leaving_twice_harmless():
    engine = make_engine(ScriptedRunner())
    engine.add(make_sequence("a"))
    engine.add(make_sequence("b", max_tokens=2))
    engine.step()

    engine.abort("a")
    engine.abort("a")
    engine.abort("never came")

    assert tokens_of(run_to_the_end(engine), "a") == []


def test_a_row_that_is_not_finite_fails_alone():
    engine = make_engine(ScriptedRunner({"bad": [5, None], "good": [1, 2, 3]}))
    engine.add(make_sequence("bad"))
    engine.add(make_sequence("good", max_tokens=3))

    outputs = run_to_the_end(engine)

    assert tokens_of(outputs, "good") == [1, 2, 3]
    assert tokens_of(outputs, "bad") == [5, None]
    (error,) = [o for o in outputs if o.finish_reason is FinishReason.ERROR]
    assert error.sequence_id == "bad"
    assert error.error == "the model's output was not finite"


@pytest.mark.parametrize("position", [0, 1, 2])
def test_of_a_step_that_raises_only_the_culprit_fails(position):
    runner = ScriptedRunner({"a": [1, 2, 3], "b": [4, 5, 6], "c": [7, 8, 9]})
    engine = make_engine(runner)
    for name in "abc":
        engine.add(make_sequence(name, max_tokens=3))
    outputs = engine.step()

    culprit = "abc"[position]
    runner.failing[culprit] = RuntimeError("secret detail of a kernel")
    outputs += run_to_the_end(engine)

    for name in set("abc") - {culprit}:
        assert tokens_of(outputs, name) == runner.tokens[name]
    assert tokens_of(outputs, culprit) == [runner.tokens[culprit][0], None]
    (error,) = [o for o in outputs if o.finish_reason is FinishReason.ERROR]
    assert error.sequence_id == culprit
    assert "secret" not in error.error


def test_a_step_whose_rows_all_raise_fails_them_all_and_no_later_one():
    runner = ScriptedRunner()
    engine = make_engine(runner)
    for name in "ab":
        runner.failing[name] = ValueError("bad")
        engine.add(make_sequence(name))

    outputs = run_to_the_end(engine)

    assert {(o.sequence_id, o.finish_reason) for o in outputs} == {
        ("a", FinishReason.ERROR),
        ("b", FinishReason.ERROR),
    }
    engine.add(make_sequence("c", max_tokens=2))
    assert tokens_of(run_to_the_end(engine), "c") == [7, 7]


def test_a_culprit_fails_in_the_middle_of_its_prompt():
    runner = ScriptedRunner({"good": [1, 2, 3]})
    engine = make_engine(runner, make_scheduler(max_num_batched_tokens=8))
    engine.add(make_sequence("good", max_tokens=3))
    engine.add(make_sequence("bad", range(30)))
    runner.failing["bad"] = RuntimeError("bad")

    outputs = run_to_the_end(engine)

    assert tokens_of(outputs, "good") == [1, 2, 3]
    assert tokens_of(outputs, "bad") == [None]


def test_a_device_error_is_no_rows_fault_and_goes_up():
    """Every later call on the device would fail too: nothing may be tried again."""
    runner = ScriptedRunner()
    engine = make_engine(runner)
    engine.add(make_sequence("a"))
    engine.add(make_sequence("b"))
    runner.failing["b"] = torch.AcceleratorError("CUDA error: an illegal memory access")

    with pytest.raises(torch.AcceleratorError):
        engine.step()

    assert runner.batches == []


@pytest.mark.parametrize("overlap", [False, True])
def test_the_first_token_says_when_its_sequence_was_begun_and_its_picture_encoded(overlap):
    engine = make_engine(ChecksumRunner(), make_scheduler(max_num_seqs=1), overlap=overlap)
    pictures = {1: make_picture("p", num_tokens=4)}
    start = time.monotonic()
    engine.add(make_sequence("a", [7, *[-1] * 4], pictures=pictures, max_tokens=2))
    engine.add(make_sequence("b", max_tokens=2))

    outputs = run_to_the_end(engine)

    (first, second), (other, _) = ([o for o in outputs if o.sequence_id == i] for i in "ab")
    assert first.begun is not None
    assert first.encoded is not None
    assert other.begun is not None
    assert start < first.begun < first.encoded < other.begun < time.monotonic()
    assert (second.begun, second.encoded, other.encoded) == (None, None, None)


def test_resetting_the_prefix_cache_makes_every_prompt_new():
    runner = ScriptedRunner()
    engine = make_engine(runner)
    for name in "abc":
        engine.add(make_sequence(name, range(9), max_tokens=1))
        run_to_the_end(engine)
        if name == "b":
            engine.reset_prefix_cache()

    assert runner.batches == [[("a", 0, 9)], [("b", 8, 9)], [("c", 0, 9)]]


def test_stats_tell_what_runs_and_what_waits():
    engine = make_engine(ScriptedRunner(), make_scheduler(max_num_seqs=1))
    engine.add(make_sequence("a", range(5)))
    engine.add(make_sequence("b", range(5)))
    assert engine.stats().num_waiting == 2

    engine.step()

    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_preemptions) == (1, 1, 0)
    assert (stats.num_blocks, stats.num_blocks_free, stats.num_blocks_cached) == (16, 14, 0)


# From here on the runner reads a cache: see ChecksumRunner.

SHORT_ROPE_LEN = 20


def checksum_engine(
    scheduler: Scheduler, *, overlap: bool = False
) -> tuple[Engine, ChecksumRunner]:
    runner = ChecksumRunner(scheduler.blocks.block_size)
    return make_engine(runner, scheduler, overlap=overlap), runner


def expected(scheduler: Scheduler, sequence: Sequence) -> list[int]:
    max_model_len = scheduler.blocks.num_blocks * scheduler.blocks.block_size
    prompt = sequence.token_ids[: sequence.num_prompt_tokens]
    return expected_output(replace(sequence, token_ids=prompt), SHORT_ROPE_LEN, max_model_len)


def checksum_scheduler(**options) -> Scheduler:
    return make_scheduler(short_rope_len=SHORT_ROPE_LEN, **options)


def test_chunks_blocks_and_regimes_leave_the_output_alone():
    scheduler = checksum_scheduler(num_blocks=32, max_num_batched_tokens=5)
    engine, _ = checksum_engine(scheduler)
    sequences = [
        make_sequence("crossing", range(15), max_tokens=12),
        make_sequence("long", range(30), max_tokens=4),
        make_sequence("short", range(3), max_tokens=9),
    ]
    for sequence in sequences:
        engine.add(sequence)

    outputs = run_to_the_end(engine)

    for sequence in sequences:
        assert tokens_of(outputs, sequence.id) == expected(scheduler, sequence)


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_preempted_sequence_gives_the_same_output(prefix_cache):
    scheduler = checksum_scheduler(num_blocks=6, prefix_cache=prefix_cache)
    engine, _ = checksum_engine(scheduler)
    sequences = [make_sequence(name, [ord(name)] * 4, max_tokens=18) for name in "abcd"]
    for sequence in sequences:
        engine.add(sequence)

    outputs = run_to_the_end(engine)

    assert engine.stats().num_preemptions >= 3
    for sequence in sequences:
        assert tokens_of(outputs, sequence.id) == expected(scheduler, sequence)


def test_after_a_failed_step_the_neighbours_output_is_the_same():
    """The failed step had written its keys already; they are written again."""
    scheduler = checksum_scheduler(max_num_batched_tokens=8)
    engine, runner = checksum_engine(scheduler)
    good = make_sequence("good", range(14), max_tokens=12)
    engine.add(good)
    engine.add(make_sequence("bad", range(9)))
    outputs = engine.step() + engine.step()

    runner.failing.add("bad")
    outputs += run_to_the_end(engine)

    assert tokens_of(outputs, "good") == expected(scheduler, good)
    # What the culprit left in the cache is right: it was its output that could not be had.
    runner.failing.clear()
    again = make_sequence("again", range(9), max_tokens=3)
    engine.add(again)
    assert tokens_of(run_to_the_end(engine), "again") == expected(scheduler, again)


PICTURES = {"chart": make_picture("chart", 6, num_crops=4), "photo": make_picture("photo", 6)}
BEGINNINGS = [[], list(range(8)), [*range(8), *range(40, 52)], [3] * 18]


@st.composite
def requests(draw) -> Sequence:
    """Prompts that often begin alike, some with a picture, some of them in the long regime."""
    token_ids = list(draw(st.sampled_from(BEGINNINGS)))
    pictures = {}
    if draw(st.booleans()):
        picture = PICTURES[draw(st.sampled_from(sorted(PICTURES)))]
        pictures[len(token_ids)] = picture
        token_ids += [-1] * picture.num_tokens
    token_ids += draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    return make_sequence(
        str(draw(st.uuids())),
        token_ids,
        max_tokens=draw(st.integers(1, 14)),
        stop=[draw(st.integers(0, VOCAB_SIZE - 1)) for _ in range(30)],
        pictures=pictures,
        salt=draw(st.sampled_from([b"", b"tenant"])),
    )


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlap"])
@settings(max_examples=200)
@given(
    st.lists(requests(), min_size=1, max_size=9, unique_by=lambda sequence: sequence.id),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8), st.booleans()), max_size=6),
    st.integers(12, 24),
    st.integers(3, 12),
    st.fixed_dictionaries(
        {
            "max_crops": st.integers(1, 6),
            "prompt_share": st.none() | st.integers(1, 4),
            "crops_share": st.none() | st.sampled_from([0.1, 0.5, 1, 2]),
            "prefix_cache": st.booleans(),
        }
    ),
)
def test_whatever_happens_each_sequence_gets_its_own_output(
    overlap, sequences, events, num_blocks, budget, options
):
    """Sequences come at any time, leave at any time, fail at any time, share prefixes, are
    preempted, cross into the long regime; none of it may show in another one's tokens."""
    scheduler = checksum_scheduler(
        num_blocks=num_blocks,
        max_num_seqs=3,
        max_num_batched_tokens=budget,
        **options,
    )
    engine, runner = checksum_engine(scheduler, overlap=overlap)
    ended_early: set[str] = set()
    outputs: list[TokenOutput] = []
    for step in range(1000):
        if step % 3 == 0 and step // 3 < len(sequences):
            engine.add(sequences[step // 3])
        for at, number, fails in events:
            if at == step and number < len(sequences):
                ended_early.add(sequences[number].id)
                if fails:
                    runner.failing.add(sequences[number].id)
                else:
                    engine.abort(sequences[number].id)
        outputs += engine.step()
        assert_accounted(scheduler.blocks, sequences)
        if step // 3 >= len(sequences) and not engine.has_work:
            break
    assert_idle(engine)
    assert not any(sequence.block_table for sequence in sequences)

    assert not runner.num_unplanned or runner.failing
    for sequence in sequences:
        tokens = tokens_of(outputs, sequence.id)
        whole = expected(scheduler, sequence)
        if sequence.id in ended_early:
            tokens = [token for token in tokens if token is not None]
            assert tokens == whole[: len(tokens)]
        else:
            assert tokens == whole
