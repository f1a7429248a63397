"""Biases, penalties, bans and masks, against transformers' own and against naive arithmetic."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scoring.logits_processors import process
from scoring.sequence import SamplingParams, Sequence
from scoring.token_history import TokenHistory

from .naive_sampler import processed

VOCAB_SIZE = 70
PLAIN = SamplingParams(max_tokens=10)


def random_logits(num_rows: int) -> Tensor:
    return torch.randn(num_rows, VOCAB_SIZE, generator=torch.Generator().manual_seed(0)) * 3


def make_row(params: SamplingParams, prompt: list[int], output: list[int]) -> Sequence:
    sequence = Sequence("row", list(prompt), params)
    sequence.token_ids += output
    return sequence


def after(logits: Tensor, rows: list[Sequence]) -> Tensor:
    result = logits.clone()
    process(result, rows)
    return result


class BitMask:
    """Allows what a test lists, in llguidance's layout, and writes down what it is told."""

    def __init__(self, *token_ids: int) -> None:
        self.allowed = set(token_ids)
        self.accepted: list[int] = []

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)

    def fill(self, bitmask: np.ndarray, row: int) -> None:
        bits = [token_id in self.allowed for token_id in range(32 * bitmask.shape[1])]
        bitmask[row] = np.packbits(bits, bitorder="little").view(np.int32)


def test_rows_without_any_of_it_are_not_even_looked_at():
    """No tensor, no work on it."""
    params = replace(PLAIN, temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, logprobs=3)

    process(None, [make_row(params, [1, 2], [3])] * 3)


def test_neighbours_are_not_touched():
    logits = random_logits(3)
    params = replace(
        PLAIN, logit_bias=((3, 1.0),), repetition_penalty=2.0, presence_penalty=1.0, min_tokens=5,
        stop_token_ids=frozenset({9}),
    )  # fmt: skip
    busy = make_row(params, [1, 2], [3])
    busy.token_mask = BitMask(1, 2, 3)

    result = after(logits, [make_row(PLAIN, [1, 2], [3]), busy, make_row(PLAIN, [], [3, 3])])

    assert torch.equal(result[[0, 2]], logits[[0, 2]])
    assert not torch.equal(result[1], logits[1])


@pytest.mark.parametrize("penalty", [0.5, 1.1, 2.0])
def test_repetition_penalty_is_transformers_over_prompt_and_output(penalty):
    logits = random_logits(1)
    prompt, output = [1, 2, 3, 3, 3], [3, 4, 4, 60]
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)

    expected = theirs(torch.tensor([prompt + output]), logits.clone())

    row = make_row(replace(PLAIN, repetition_penalty=penalty), prompt, output)
    assert torch.equal(after(logits, [row]), expected)
    changed = (expected != logits).nonzero()[:, 1].tolist()
    assert changed == [1, 2, 3, 4, 60]


def test_repetition_penalty_leaves_out_the_slots_of_images():
    """They are negative, and would count from the end."""
    logits = random_logits(1)
    row = make_row(replace(PLAIN, repetition_penalty=2.0), [1, -1, -1, -2, 5], [])

    changed = (after(logits, [row]) != logits).nonzero()[:, 1].tolist()

    assert changed == [1, 5]


def test_logit_bias_is_transformers():
    logits = random_logits(1)
    bias = {5: 2.5, 69: -100.0, 0: 100.0}
    theirs = transformers.SequenceBiasLogitsProcessor(
        [[[token_id], value] for token_id, value in bias.items()]
    )

    expected = theirs(torch.tensor([[1, 2, 3]]), logits.clone())

    row = make_row(replace(PLAIN, logit_bias=tuple(bias.items())), [1, 2, 3], [])
    assert torch.equal(after(logits, [row]), expected)


def test_the_bias_comes_before_the_repetition_penalty():
    """As in transformers and vLLM: −1 + 3 is positive, so it is divided."""
    logits = torch.full((1, VOCAB_SIZE), -1.0)
    params = replace(PLAIN, logit_bias=((4, 3.0),), repetition_penalty=2.0, presence_penalty=0.25)

    result = after(logits, [make_row(params, [], [4])])

    assert result[0, 4] == 2.0 / 2.0 - 0.25


def test_a_penalty_of_one_counts_the_output_only():
    logits = torch.zeros(1, VOCAB_SIZE)
    params = replace(PLAIN, presence_penalty=1.0, frequency_penalty=0.5)

    result = after(logits, [make_row(params, [1, 2, 2], [2, 3, 3])])

    assert result[0, :5].tolist() == [0.0, 0.0, -1.5, -2.0, 0.0]


def test_all_penalties_together_count_the_prompt_for_one_of_them():
    logits = torch.ones(1, VOCAB_SIZE)
    params = replace(PLAIN, presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=2.0)

    result = after(logits, [make_row(params, [1, 2, 2], [2, 3, 3])])

    assert result[0, :5].tolist() == [1.0, 0.5, 0.5 - 1.5, 0.5 - 2.0, 1.0]


IDS = st.integers(0, VOCAB_SIZE - 1)
ROWS = st.tuples(
    st.builds(
        SamplingParams,
        max_tokens=st.just(10),
        presence_penalty=st.sampled_from([0.0, 0.0, 0.7, -2.0]),
        frequency_penalty=st.sampled_from([0.0, 0.0, 1.3, -0.4]),
        repetition_penalty=st.sampled_from([1.0, 1.0, 1.2, 0.7]),
        logit_bias=st.dictionaries(IDS, st.floats(-100, 100, width=32), max_size=3).map(
            lambda biases: tuple(biases.items())
        ),
        min_tokens=st.integers(0, 4),
        stop_token_ids=st.frozensets(IDS, max_size=3),
        eos_token_ids=st.frozensets(IDS, max_size=3),
        ignore_eos=st.booleans(),
    ),
    st.lists(st.integers(-3, VOCAB_SIZE - 1), max_size=8),
    st.lists(IDS, max_size=8),
)


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5))
def test_a_batch_is_the_naive_arithmetic_row_by_row(rows):
    logits = random_logits(len(rows))
    sequences = [make_row(*row) for row in rows]

    result = after(logits, sequences)

    expected = [processed(row, s) for row, s in zip(logits.tolist(), sequences, strict=True)]
    assert torch.allclose(result, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(ROWS, st.lists(IDS, min_size=1, max_size=8))
def test_what_is_kept_from_step_to_step_changes_nothing(row, said):
    """The sequence grows by a token in each step, and now and then nothing is sampled."""
    growing = make_row(*row)
    for step, token_id in enumerate(said):
        logits = random_logits(1)
        fresh = make_row(growing.params, row[1], growing.output_ids)
        assert torch.equal(after(logits, [growing]), after(logits, [fresh]))
        if step % 3 == 2:  # the step failed and is run again
            assert torch.equal(after(logits, [growing]), after(logits, [fresh]))
        growing.token_ids.append(token_id)


def test_a_history_reads_each_token_once():
    """A step of a long text must cost what is new."""

    class Watched(list):
        read = 0

        def __getitem__(self, key):
            result = super().__getitem__(key)
            Watched.read += len(result)
            return result

    token_ids = Watched([*range(1000), -1, -1, 5])
    history = TokenHistory(len(token_ids), with_prompt=True)
    history.read(token_ids)
    assert Watched.read == 1003
    token_ids += [5, 7000]

    history.read(token_ids)

    assert Watched.read == 1005
    counts = dict(zip(history.ids.tolist(), history.counts.tolist(), strict=True))
    assert counts == dict.fromkeys(range(1000), 0) | {5: 1, 7000: 1}


@pytest.mark.parametrize(
    ("num_said", "ignore_eos", "banned"),
    [
        (0, False, {3, 8, 69}),
        (2, False, {3, 8, 69}),
        (3, False, set()),
        (2, True, {3}),
        (3, True, set()),
    ],
)
def test_what_ends_the_text_is_banned_until_min_tokens(num_said, ignore_eos, banned):
    params = replace(
        PLAIN,
        min_tokens=3,
        stop_token_ids=frozenset({3}),
        eos_token_ids=frozenset({8, 69}),
        ignore_eos=ignore_eos,
    )

    result = after(torch.zeros(1, VOCAB_SIZE), [make_row(params, [1], [5] * num_said)])

    assert set((result[0] == -torch.inf).nonzero()[:, 0].tolist()) == banned


@pytest.mark.parametrize("allowed", [{0}, {31, 32}, {63, 64, 69}, set(range(VOCAB_SIZE)), set()])
def test_a_mask_bans_all_that_it_does_not_allow(allowed):
    logits = random_logits(4)
    rows = [make_row(PLAIN, [1], []) for _ in range(4)]
    rows[0].token_mask = BitMask(*allowed)
    rows[2].token_mask = BitMask(7)

    result = after(logits, rows)

    assert set(result[0].isfinite().nonzero()[:, 0].tolist()) == allowed
    assert torch.equal(result[0, list(allowed)], logits[0, list(allowed)])
    assert result[2].isfinite().nonzero()[:, 0].tolist() == [7]
    assert torch.equal(result[[1, 3]], logits[[1, 3]])


def test_a_mask_learns_of_each_token_once_before_it_is_asked():
    row = make_row(PLAIN, [1, 2], [])
    row.token_mask = mask = BitMask(1)
    process(random_logits(1), [row])
    assert mask.accepted == []

    row.token_ids.append(7)
    process(random_logits(1), [row])
    process(random_logits(1), [row])  # the step failed and is run again
    row.token_ids.append(7)
    process(random_logits(1), [row])

    assert mask.accepted == [7, 7]
