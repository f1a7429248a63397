"""Steps that are launched before the last one's tokens are known."""

import random
from collections.abc import Iterable

import pytest

from scoring.engine import Engine
from scoring.sequence import FinishReason, Sequence, TokenOutput

from .scripted import (
    VOCAB_SIZE,
    ChecksumRunner,
    ScriptedRunner,
    assert_accounted,
    make_engine,
    make_picture,
    make_scheduler,
    make_sequence,
)

NUM_REQUESTS = 2000
SHORT_ROPE_LEN = 20
PICTURES = [make_picture(name, 3) for name in ("chart", "photo")]


def requests(seed: int) -> list[Sequence]:
    """Some share beginnings and pictures; a third have so many stop tokens that they soon end."""
    rng = random.Random(seed)
    sequences = []
    for number in range(NUM_REQUESTS):
        prompt, pictures = list(range(rng.choice((0, 4, 9)))), {}
        if rng.random() < 0.3:
            pictures[len(prompt)] = rng.choice(PICTURES)
            prompt += [-1] * 3
        prompt += [rng.randrange(3) for _ in range(rng.randrange(1, 9))]
        stop = rng.sample(range(VOCAB_SIZE), 300) if rng.random() < 0.3 else []
        max_tokens = rng.randrange(1, 16)
        sequences.append(
            make_sequence(str(number), prompt, max_tokens=max_tokens, stop=stop, pictures=pictures)
        )
    return sequences


def outcomes(
    sequences: list[Sequence], *, overlap: bool
) -> tuple[dict[str, tuple[list[int | None], FinishReason]], int, set[str]]:
    """Every sequence's tokens and end; how often one was preempted; and who left early. Too little
    room, and one in fourteen leaves, so that all that can happen does."""
    scheduler = make_scheduler(
        num_blocks=18, max_num_seqs=5, max_num_batched_tokens=12, short_rope_len=SHORT_ROPE_LEN
    )
    engine = make_engine(ChecksumRunner(), scheduler, overlap=overlap)
    leaving = {s.id: random.Random(s.id).randrange(1, 9) for s in sequences[::14]}
    coming = iter(sequences)
    tokens: dict[str, list[int | None]] = {s.id: [] for s in sequences}
    ends: dict[str, FinishReason] = {}
    left: set[str] = set()
    for _ in range(100 * NUM_REQUESTS):
        stats = engine.stats()
        if stats.num_waiting < 3:
            sequence = next(coming, None)
            if sequence is not None:
                engine.add(sequence)
            elif not engine.has_work:
                break
        for output in engine.step():
            assert output.sequence_id not in ends.keys() | left
            tokens[output.sequence_id].append(output.token_id)
            if output.finish_reason is not None:
                ends[output.sequence_id] = output.finish_reason
            elif len(tokens[output.sequence_id]) == leaving.get(output.sequence_id):
                engine.abort(output.sequence_id)
                left.add(output.sequence_id)
        assert_accounted(scheduler.blocks, sequences)
    stats = engine.stats()
    assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks
    assert ends.keys() | left == tokens.keys()
    return {i: (tokens[i], ends[i]) for i in ends}, stats.num_preemptions, left


def test_two_thousand_requests_say_what_they_say_step_by_step():
    plain, preemptions, left = outcomes(requests(1), overlap=False)
    ahead, preemptions_ahead, left_ahead = outcomes(requests(1), overlap=True)

    assert ahead == plain
    assert left_ahead == left
    assert len(left) > 50
    assert min(preemptions, preemptions_ahead) > 50
    reasons = [reason for _, reason in plain.values()]
    assert min(reasons.count(FinishReason.STOP), reasons.count(FinishReason.LENGTH)) > 200


def step_until_empty(engine: Engine) -> list[TokenOutput]:
    outputs = []
    for _ in range(100):
        if not engine.has_work:
            return outputs
        outputs += engine.step()
    raise AssertionError("no end in sight")


def tokens(outputs: Iterable[TokenOutput]) -> list[int | None]:
    return [output.token_id for output in outputs]


def test_a_step_is_launched_before_the_tokens_of_the_last_are_known():
    runner = ScriptedRunner({"a": [5, 6, 8]})
    engine = make_engine(runner, overlap=True)
    engine.add(make_sequence("a"))

    assert engine.step() == []
    assert [tokens(engine.step()) for _ in range(2)] == [[5], [6]]
    assert len(runner.batches) == 3


def test_the_last_token_that_may_come_is_not_followed_by_a_step():
    """How many tokens there will be is known before they are: nothing is computed in vain."""
    runner = ScriptedRunner()
    engine = make_engine(runner, overlap=True)
    engine.add(make_sequence("a", [1, 2], max_tokens=3))

    assert tokens(step_until_empty(engine)) == [7, 7, 7]
    assert runner.batches == [[("a", 0, 2)], [("a", 2, 3)], [("a", 3, 4)]]


def test_the_context_ends_before_a_step_goes_beyond_it():
    runner = ScriptedRunner()
    engine = make_engine(runner, make_scheduler(num_blocks=2), overlap=True)
    engine.add(make_sequence("a", range(5)))

    outputs = step_until_empty(engine)

    assert (len(outputs), outputs[-1].finish_reason) == (3, FinishReason.LENGTH)
    assert runner.batches[-1] == [("a", 6, 7)]


def test_a_stop_token_costs_one_step_whose_token_nobody_gets():
    runner = ScriptedRunner({"a": [5, 9]})
    engine = make_engine(runner, overlap=True)
    engine.add(make_sequence("a", stop=[9]))

    assert tokens(step_until_empty(engine)) == [5, 9]
    assert len(runner.batches) == 3


@pytest.mark.parametrize("culprit", ["first", "second"])
def test_a_failed_step_loses_no_token_of_the_one_before(culprit):
    runner = ScriptedRunner({"first": [1, 2, 3], "second": [4, 5, 6]})
    engine = make_engine(runner, overlap=True)
    for name in ("first", "second"):
        engine.add(make_sequence(name, max_tokens=3))
    engine.step()
    runner.failing[culprit] = RuntimeError("a kernel failed")

    outputs = step_until_empty(engine)

    said = {n: [o for o in outputs if o.sequence_id == n] for n in ("first", "second")}
    other = "second" if culprit == "first" else "first"
    assert tokens(said[other]) == runner.tokens[other]
    assert tokens(said[culprit]) == [runner.tokens[culprit][0], None]
    assert said[culprit][-1].finish_reason is FinishReason.ERROR


def test_a_sequence_that_ended_is_not_failed_by_the_step_after():
    runner = ScriptedRunner({"a": [9]})
    engine = make_engine(runner, overlap=True)
    engine.add(make_sequence("a", stop=[9]))
    engine.step()
    runner.failing["a"] = RuntimeError("a kernel failed")

    (output,) = step_until_empty(engine)

    assert (output.token_id, output.finish_reason) == (9, FinishReason.STOP)


def test_logits_that_are_not_finite_end_one_sequence():
    runner = ScriptedRunner({"bad": [1, None], "good": [2, 3, 4]})
    engine = make_engine(runner, overlap=True)
    engine.add(make_sequence("bad"))
    engine.add(make_sequence("good", max_tokens=3))

    outputs = step_until_empty(engine)

    assert tokens(o for o in outputs if o.sequence_id == "good") == [2, 3, 4]
    assert tokens(o for o in outputs if o.sequence_id == "bad") == [1, None]


def test_leaving_while_a_step_is_under_way_frees_the_blocks():
    engine = make_engine(ScriptedRunner(), overlap=True)
    engine.add(make_sequence("a"))
    engine.step()
    engine.abort("a")

    assert engine.has_work  # the step's end must still be seen
    assert engine.step() == []
    assert not engine.has_work
    stats = engine.stats()
    assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks


def test_an_id_may_come_again_while_the_step_of_its_first_bearer_is_under_way():
    engine = make_engine(ScriptedRunner({"a": [5, 6]}), overlap=True)
    engine.add(make_sequence("a"))
    engine.step()
    engine.abort("a")
    engine.add(make_sequence("a", max_tokens=2))

    assert tokens(step_until_empty(engine)) == [5, 6]
