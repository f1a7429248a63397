"""What the engine's door lets through, and what ends a text, up to the scheduler."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from scoring.errors import InvalidSequenceError
from scoring.sampler import sample
from scoring.scheduler import SampledToken, ScheduledRow, Scheduler
from scoring.sequence import FinishReason, SamplingParams, Sequence

from .scripted import VOCAB_SIZE, ScriptedRunner, assert_idle, make_engine, make_scheduler

PLAIN = SamplingParams(max_tokens=10)
EOS, STOP = 2, 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("min_tokens", -1),
        ("min_tokens", 11),  # of 10
        ("min_tokens", 10**9),
        ("temperature", -0.1),
        ("temperature", -5e-324),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", -0.1),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("min_p", -0.1),
        ("min_p", 1.01),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", 100.1),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", math.nan),
        ("presence_penalty", math.nan),
        ("presence_penalty", math.inf),
        ("presence_penalty", -100.1),
        ("frequency_penalty", math.nan),
        ("frequency_penalty", -math.inf),
        ("frequency_penalty", 100.1),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", 2**64),
        ("logprobs", -1),
        ("logprobs", 21),
        ("stop_token_ids", frozenset({-1})),
        ("stop_token_ids", frozenset({5, VOCAB_SIZE})),
        ("stop_token_ids", frozenset({2**31})),
        ("eos_token_ids", frozenset({-1})),
        ("eos_token_ids", frozenset({VOCAB_SIZE})),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", ((5, 1.0), (VOCAB_SIZE, 1.0))),
        ("logit_bias", ((5, 100.1),)),
        ("logit_bias", ((5, -101.0),)),
        ("logit_bias", ((5, math.nan),)),
        ("logit_bias", ((5, -math.inf),)),
        ("logit_bias", ((5, 1.0), (5, 2.0))),
        ("logit_bias", tuple((token_id, 0.0) for token_id in range(1025))),
    ],
)
def test_a_value_out_of_its_range_is_refused_at_the_door_by_name(field, value):
    engine = make_engine(ScriptedRunner())
    vocabulary = 10**6 if field == "logit_bias" and len(value) > 1000 else VOCAB_SIZE
    params = replace(PLAIN, **{field: value})

    with pytest.raises(InvalidSequenceError, match=field):
        params.check(vocabulary)
    with pytest.raises(InvalidSequenceError, match=field):
        engine.add(Sequence("a", [1], params))

    assert not engine.has_work


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_tokens", [1, 10**9]),
        ("min_tokens", [0, 10]),
        ("temperature", [0.0, 5e-324, 1e-30, 2.0, 1e308]),
        ("top_p", [5e-324, 1.0]),
        ("top_k", [0, 1, VOCAB_SIZE, 2**40]),
        ("min_p", [0.0, 1.0]),
        ("repetition_penalty", [5e-324, 1.0, 100.0]),
        ("presence_penalty", [-100.0, 0.0, 100.0]),
        ("frequency_penalty", [-100.0, 0.0, 100.0]),
        ("seed", [-(2**63), 0, 2**63 - 1]),
        ("logprobs", [None, 0, 20]),
        ("stop_token_ids", [frozenset(), frozenset({0, VOCAB_SIZE - 1})]),
        ("eos_token_ids", [frozenset(), frozenset({0, VOCAB_SIZE - 1})]),
        ("logit_bias", [(), ((0, -100.0), (VOCAB_SIZE - 1, 100.0))]),
    ],
)
def test_the_ends_of_each_range_pass_and_can_be_sampled_with(field, values):
    for value in values:
        params = replace(PLAIN, **{field: value})
        params.check(VOCAB_SIZE)
        warm = params if field == "temperature" else replace(params, temperature=1.0)

        sequences = [Sequence("a", [1], params), Sequence("b", [1], warm)]
        for sampled in sample(torch.randn(2, VOCAB_SIZE), sequences):
            assert sampled.token_id is not None or value == 5e-324


def test_a_message_names_the_value_and_the_range():
    with pytest.raises(InvalidSequenceError) as raised:
        replace(PLAIN, min_tokens=11).check(VOCAB_SIZE)

    assert str(raised.value) == "min_tokens is 11; allowed: 0 … 10"


class WishfulRunner(ScriptedRunner):
    """A model that has the same wishes at every step, the first one most; the real sampler
    decides. `wishes`: by sequence id."""

    def __init__(self, wishes: Mapping[str, list[int]]) -> None:
        super().__init__()
        self.wishes = wishes

    def execute(self, rows: Iterable[ScheduledRow]) -> list[SampledToken | None]:
        rows = list(rows)
        said = super().execute(rows)  # raises where a test wants it to
        emitting = [row.sequence for row in rows if row.emits]
        logits = torch.zeros(len(emitting), VOCAB_SIZE)
        for row, sequence in zip(logits, emitting, strict=True):
            for rank, token_id in enumerate(self.wishes[sequence.id]):
                row[token_id] = 10.0 - rank
        tokens = iter(sample(logits, emitting) if emitting else [])
        return [None if token is None else next(tokens) for token in said]


def run(
    wishes: dict[str, list[int]], *sequences: Sequence, scheduler: Scheduler | None = None
) -> dict[str, list]:
    """Every sequence's tokens, and then why it ended."""
    scheduler = scheduler or make_scheduler()
    engine = make_engine(WishfulRunner(wishes), scheduler)
    for sequence in sequences:
        engine.add(sequence)
    result: dict[str, list] = {sequence.id: [] for sequence in sequences}
    while engine.has_work:
        for output in engine.step():
            if output.token_id is not None:
                result[output.sequence_id].append(output.token_id)
            if output.finish_reason:
                result[output.sequence_id].append(output.finish_reason)
    assert_idle(scheduler)
    return result


def ends(**params) -> SamplingParams:
    """As a server fills it in: the model ends with 2, the caller's text with 3."""
    return SamplingParams(
        **({"max_tokens": 5} | params),
        eos_token_ids=frozenset({EOS}),
        stop_token_ids=frozenset({STOP}),
    )


@pytest.mark.parametrize("end", [EOS, STOP])
@pytest.mark.parametrize("min_tokens", [0, 1, 3, 5])
def test_no_text_ends_before_min_tokens(end, min_tokens):
    """All this model wants is to end. Below, max_tokens is as many as min_tokens."""
    sequence = Sequence("a", [1], ends(min_tokens=min_tokens))

    tokens = run({"a": [end, 7]}, sequence)["a"]

    if min_tokens == 5:
        assert tokens == [7] * 5 + [FinishReason.LENGTH]
    else:
        assert tokens == [7] * min_tokens + [end, FinishReason.STOP]


def test_ignore_eos_is_about_the_models_own_tokens_only():
    result = run(
        {"a": [EOS], "b": [STOP], "c": [EOS]},
        Sequence("a", [1], ends(ignore_eos=True)),
        Sequence("b", [1], ends(ignore_eos=True)),
        Sequence("c", [1], ends()),
    )

    assert result == {
        "a": [EOS] * 5 + [FinishReason.LENGTH],
        "b": [STOP, FinishReason.STOP],
        "c": [EOS, FinishReason.STOP],
    }


def test_ignore_eos_with_min_tokens_leaves_the_models_own_tokens_alone():
    """They do not end the text, so there is no reason to ban them."""
    params = ends(ignore_eos=True, min_tokens=2)

    assert run({"a": [STOP, EOS]}, Sequence("a", [1], params))["a"] == [
        EOS,
        EOS,
        STOP,
        FinishReason.STOP,
    ]


def test_a_runner_that_does_not_obey_min_tokens_cannot_end_the_text_either():
    scheduler = make_scheduler()
    engine = make_engine(ScriptedRunner({"a": [EOS, EOS, EOS, EOS]}), scheduler)
    engine.add(Sequence("a", [1], ends(min_tokens=2)))

    outputs = []
    while engine.has_work:
        outputs += engine.step()

    assert [output.token_id for output in outputs] == [EOS] * 3
    assert outputs[-1].finish_reason is FinishReason.STOP


class Sentence:
    """A grammar: these tokens, in this order, and then the end. Refuses what it did not allow."""

    def __init__(self, *token_ids: int) -> None:
        self.rest = [*token_ids, EOS]

    def accept(self, token_id: int) -> None:
        if token_id != self.rest.pop(0):
            raise ValueError("not what was allowed")

    def fill(self, bitmask: np.ndarray, row: int) -> None:
        bitmask[row] = 0
        word, bit = divmod(self.rest[0], 32)
        bitmask[row, word] = np.uint32(1 << bit).astype(np.int32)


class BrokenMask(Sentence):
    def fill(self, bitmask: np.ndarray, row: int) -> None:
        raise RuntimeError("the grammar is in no state at all")


class EmptyMask(Sentence):
    def fill(self, bitmask: np.ndarray, row: int) -> None:
        bitmask[row] = 0


def masked(sequence_id: str, mask: Sentence, **params) -> Sequence:
    return Sequence(sequence_id, [1], ends(max_tokens=10, **params), token_mask=mask)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_has_its_way_beside_free_rows(temperature):
    free = ends(temperature=temperature, top_p=0.9, seed=4)
    wishes = {"json": [EOS, 9], "free": [7, 8], "other": [9, 31]}
    alone = run(wishes, Sequence("free", [1], free))

    result = run(
        wishes,
        masked("json", Sentence(31, 32, 999, 0), temperature=temperature),
        Sequence("free", [1], free),
        masked("other", Sentence(63)),
    )

    assert result["json"] == [31, 32, 999, 0, EOS, FinishReason.STOP]
    assert result["other"] == [63, EOS, FinishReason.STOP]
    assert result["free"] == alone["free"]


def test_a_grammar_outlives_steps_that_fail_and_preemption():
    """accept comes once for each token, though steps are run again and blocks are given back."""
    wishes = {name: [7] for name in ("a", "b", "broken")}
    sentence = list(range(40, 49))
    scheduler = make_scheduler(num_blocks=4)  # too few for both to the end

    result = run(
        wishes,
        masked("a", Sentence(*sentence)),
        masked("b", Sentence(*reversed(sentence))),
        masked("broken", BrokenMask()),
        scheduler=scheduler,
    )

    assert scheduler.num_preemptions > 0
    assert result["a"] == [*sentence, EOS, FinishReason.STOP]
    assert result["b"] == [*reversed(sentence), EOS, FinishReason.STOP]
    assert result["broken"] == [FinishReason.ERROR]


@pytest.mark.parametrize("mask", [BrokenMask(), EmptyMask()])
def test_a_grammar_that_fails_fails_alone(mask):
    result = run({"a": [7], "free": [8]}, masked("a", mask), Sequence("free", [1], ends()))

    assert result == {"a": [FinishReason.ERROR], "free": [8] * 5 + [FinishReason.LENGTH]}


def test_a_grammar_that_must_end_too_early_for_min_tokens_fails():
    """Nothing is left: neither what the grammar wants, nor what it does not allow."""
    assert run({"a": [7]}, masked("a", Sentence(40), min_tokens=3))["a"] == [
        40,
        FinishReason.ERROR,
    ]
