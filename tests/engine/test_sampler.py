"""Logits → tokens, against naive arithmetic."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from scoring import sampler
from scoring.sampler import choose, uniform
from scoring.scheduler import SampledToken
from scoring.sequence import SamplingParams, Sequence

from .naive_sampler import naive_token

VOCAB_SIZE = 50
REAL_VOCAB_SIZE = 32064
GREEDY = SamplingParams(max_tokens=10)
WARM = replace(GREEDY, temperature=1.0)


def random_logits(num_rows: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 3


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def make_row(params: SamplingParams, output: list[int] | None = None) -> Sequence:
    """A sequence with a prompt of three tokens that has said `output`."""
    sequence = Sequence("row", [1, 2, 3], params)
    sequence.token_ids += output or []
    return sequence


def sample(logits: Tensor, rows: list[Sequence]) -> list[SampledToken]:
    """On a copy: the sampler overwrites what it is given."""
    return sampler.sample(logits.clone(), rows)


def tokens_of(logits: Tensor, rows: list[Sequence]) -> list[int | None]:
    return [sampled.token_id for sampled in sample(logits, rows)]


def drawn(logits: Tensor, params: SamplingParams, num_draws: int = 4000) -> dict[int, float]:
    """How often each token comes, over so many seeds."""
    rows = [make_row(replace(params, seed=seed)) for seed in range(num_draws)]
    counts = Counter(tokens_of(logits.expand(num_draws, -1), rows))
    return {token: count / num_draws for token, count in sorted(counts.items())}


def test_temperature_zero_is_the_argmax():
    logits = random_logits(20)

    assert tokens_of(logits, [make_row(GREEDY)] * 20) == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("temperature", [1e-3, 1e-5, 1e-6, 1e-30, 5e-324])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_a_temperature_near_zero_is_the_argmax_too(temperature, top_p):
    logits = random_logits(20)
    rows = [
        make_row(replace(GREEDY, temperature=temperature, top_p=top_p, seed=seed))
        for seed in range(20)
    ]

    assert tokens_of(logits, rows) == logits.argmax(dim=-1).tolist()


def test_tokens_come_as_often_as_they_are_likely():
    frequencies = drawn(logits_of(0.5, 0.3, 0.15, 0.05), WARM)

    assert frequencies == pytest.approx({0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}, abs=0.025)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_and_flattens(temperature):
    probabilities = [0.5, 0.3, 0.15, 0.05]
    weights = [p ** (1 / temperature) for p in probabilities]

    frequencies = drawn(logits_of(*probabilities), replace(WARM, temperature=temperature))

    expected = {token: weight / sum(weights) for token, weight in enumerate(weights)}
    assert frequencies == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.01, {2: 1.0}),
        (0.45, {2: 1.0}),
        (0.7, {1: 0.3 / 0.8, 2: 0.5 / 0.8}),
        (0.9, {0: 0.15 / 0.95, 1: 0.3 / 0.95, 2: 0.5 / 0.95}),
        (0.99, {0: 0.15, 1: 0.3, 2: 0.5, 3: 0.05}),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, expected):
    frequencies = drawn(logits_of(0.15, 0.3, 0.5, 0.05), replace(WARM, top_p=top_p))

    assert frequencies == pytest.approx(expected, abs=0.025)


def test_top_p_counts_after_temperature():
    """At temperature 0.5 the first token's half becomes 0.68 and reaches top_p by itself."""
    params = replace(WARM, temperature=0.5, top_p=0.6)

    assert drawn(logits_of(0.5, 0.3, 0.15, 0.05), params) == {0: 1.0}


def test_a_seed_gives_the_same_tokens_again_and_another_seed_others():
    logits = torch.zeros(1, VOCAB_SIZE)

    def draws(seed: int) -> list[int | None]:
        params = replace(WARM, seed=seed)
        return [tokens_of(logits, [make_row(params, [0] * n)])[0] for n in range(20)]

    assert draws(1) == draws(1)
    assert len({tuple(draws(seed)) for seed in (1, 2, -1, 2**63 - 1, -(2**63))}) == 5
    assert len(set(draws(1))) > 1  # each position draws anew


def test_neighbours_change_nothing():
    """Each row alone, in a batch, and in another order, among rows of all kinds."""
    logits = random_logits(8)
    logits[6, 0] = math.nan
    rows = [
        make_row(params, output)
        for params, output in [
            (replace(WARM, seed=1), []),
            (GREEDY, [4, 5]),
            (replace(WARM, seed=2, top_p=0.8), [6]),
            (replace(WARM, seed=1, temperature=0.3, logprobs=3), [9, 9]),
            (replace(WARM, seed=7, top_p=0.2, frequency_penalty=1.5), [3, 3, 8]),
            (replace(GREEDY, presence_penalty=2.0), logits[5].topk(2).indices.tolist()),
            (replace(WARM, seed=3), [1]),
            (replace(WARM, seed=4, temperature=2.0), []),
        ]
    ]
    alone = [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)]

    assert sample(logits, rows) == alone
    order = [5, 2, 7, 0, 6, 4, 1, 3]
    assert sample(logits[order], [rows[i] for i in order]) == [alone[i] for i in order]


def penalized(logits: Tensor, prompt_and_output: Sequence) -> Tensor:
    """OpenAI's formula: μ − c·frequency − (c > 0)·presence, c counted over the output."""
    params, result = prompt_and_output.params, logits.clone()
    for token, count in Counter(prompt_and_output.output_ids).items():
        result[token] -= count * params.frequency_penalty + params.presence_penalty
    return result


@pytest.mark.parametrize("presence", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("frequency", [0.0, 1.3, -0.4])
def test_penalties_are_the_naive_arithmetic(presence, frequency):
    logits = random_logits(40) / 10  # so near each other that penalties decide
    params = replace(GREEDY, presence_penalty=presence, frequency_penalty=frequency)
    generator = torch.Generator().manual_seed(1)
    rows = []
    for row in logits:
        likely = row.topk(4).indices
        said = likely[torch.randint(4, (6,), generator=generator)].tolist()
        rows.append(make_row(params, said))

    expected = [
        penalized(row, sequence).argmax().item() for row, sequence in zip(logits, rows, strict=True)
    ]

    assert tokens_of(logits, rows) == expected
    if max(presence, frequency) > 0:
        assert expected != logits.argmax(dim=-1).tolist()


def test_penalties_do_not_count_the_prompt():
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, 2], logits[0, 7] = 1.0, 0.5  # 2 stands in the prompt
    params = replace(GREEDY, presence_penalty=2.0, frequency_penalty=2.0)

    assert tokens_of(logits, [make_row(params)]) == [2]
    assert tokens_of(logits, [make_row(params, [2])]) == [7]


def test_penalties_shape_the_draw_too():
    params = replace(WARM, presence_penalty=100.0)
    rows = [make_row(replace(params, seed=seed), [0]) for seed in range(200)]

    tokens = tokens_of(logits_of(0.9, 0.05, 0.05).expand(200, -1), rows)

    assert set(tokens) == {1, 2}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "params", [GREEDY, WARM, replace(WARM, top_p=0.5), replace(GREEDY, logprobs=2)]
)
def test_a_row_that_is_not_finite_gets_no_token_and_its_neighbours_theirs(value, params):
    logits = random_logits(3)
    rows = [make_row(replace(params, seed=seed)) for seed in range(3)]
    whole = sample(logits, rows)
    logits[1, 17] = value

    first, bad, last = sample(logits, rows)

    assert bad.token_id is None
    assert bad.logprobs is None
    assert (first, last) == (whole[0], whole[2])


def test_a_row_of_nothing_but_nan_gets_no_token():
    logits = torch.full((1, VOCAB_SIZE), math.nan)

    assert tokens_of(logits, [make_row(replace(WARM, top_p=0.9, logprobs=5))]) == [None]


def test_logprobs_are_of_the_raw_logits_best_first():
    """Neither penalties nor temperature nor top-p show in them."""
    logits = random_logits(2)
    said = logits[0].topk(3).indices.tolist()
    params = SamplingParams(
        max_tokens=5, temperature=0.7, top_p=0.9, presence_penalty=1.0, seed=5, logprobs=6
    )
    rows = [make_row(params, said), make_row(replace(GREEDY, logprobs=2))]

    for row, sampled in zip(logits, sample(logits, rows), strict=True):
        naive = (row.double() - row.double().exp().sum().log()).tolist()
        assert sampled.logprobs.sampled == pytest.approx(naive[sampled.token_id], abs=1e-5)
        ranking = sorted(range(VOCAB_SIZE), key=lambda token: -naive[token])
        top = sampled.logprobs.top
        assert [token for token, _ in top] == ranking[: len(top)]
        assert [value for _, value in top] == pytest.approx(sorted(naive)[::-1][: len(top)])


def test_each_row_gets_as_many_alternatives_as_it_asked_for():
    rows = [make_row(replace(GREEDY, logprobs=count)) for count in (None, 0, 1, 5, 20, None)]

    results = sample(random_logits(6), rows)

    numbers = [None if r.logprobs is None else len(r.logprobs.top) for r in results]
    assert numbers == [None, 0, 1, 5, 20, None]


def test_the_noise_is_even_and_depends_on_seed_and_position_alone():
    values = [uniform(seed, position) for seed in range(-50, 50) for position in range(100)]

    assert all(0 <= value < 1 for value in values)
    assert len(set(values)) == len(values)
    histogram = Counter(int(value * 10) for value in values)
    assert all(900 < histogram[tenth] < 1100 for tenth in range(10))
    assert uniform(3, 5) == uniform(3, 5)


def test_the_noise_is_the_same_on_every_machine():
    """A seed that a caller has written down must give the same text after an upgrade."""
    assert uniform(0, 0) == 0.321543039748194
    assert uniform(42, 1000) == 0.7070221844758375


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (0, {0: 0.15, 1: 0.3, 2: 0.5, 3: 0.05}),
        (1, {2: 1.0}),
        (2, {1: 0.3 / 0.8, 2: 0.5 / 0.8}),
        (3, {0: 0.15 / 0.95, 1: 0.3 / 0.95, 2: 0.5 / 0.95}),
        (4, {0: 0.15, 1: 0.3, 2: 0.5, 3: 0.05}),
        (5, {0: 0.15, 1: 0.3, 2: 0.5, 3: 0.05}),
        (2**31, {0: 0.15, 1: 0.3, 2: 0.5, 3: 0.05}),
    ],
)
def test_top_k_keeps_so_many(top_k, expected):
    frequencies = drawn(logits_of(0.15, 0.3, 0.5, 0.05), replace(WARM, top_k=top_k))

    assert frequencies == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize(
    ("min_p", "expected"),
    [
        (0.0, {0: 0.15, 1: 0.3, 2: 0.5, 3: 0.05}),
        (0.05, {0: 0.15, 1: 0.3, 2: 0.5, 3: 0.05}),
        (0.2, {0: 0.15 / 0.95, 1: 0.3 / 0.95, 2: 0.5 / 0.95}),
        (0.5, {1: 0.3 / 0.8, 2: 0.5 / 0.8}),
        (1.0, {2: 1.0}),
    ],
)
def test_min_p_is_relative_to_the_most_likely(min_p, expected):
    frequencies = drawn(logits_of(0.15, 0.3, 0.5, 0.05), replace(WARM, min_p=min_p))

    assert frequencies == pytest.approx(expected, abs=0.025)


def test_top_p_is_of_what_top_k_leaves():
    """Of 0.5 and 0.3 the first is 0.625 of both together: enough for 0.6, though not of all."""
    logits = logits_of(0.15, 0.3, 0.5, 0.05)

    assert drawn(logits, replace(WARM, top_k=2, top_p=0.6)) == {2: 1.0}
    assert len(drawn(logits, replace(WARM, top_p=0.6))) == 2


def test_min_p_takes_nothing_from_top_ps_measure():
    """Without the two that min-p removes, 0.5 would be 0.625 of what is left."""
    params = replace(WARM, top_p=0.6, min_p=0.5)

    frequencies = drawn(logits_of(0.15, 0.3, 0.5, 0.05), params)

    assert frequencies == pytest.approx({1: 0.3 / 0.8, 2: 0.5 / 0.8}, abs=0.025)


def test_of_equals_the_first_stay():
    """So that one of a batch is the same token as one alone, and top_k = 1 the same as greedy."""
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, [7, 30, 41]] = 5.0

    assert tokens_of(logits, [make_row(GREEDY)]) == [7]
    assert set(drawn(logits, replace(WARM, top_k=1), 100)) == {7}
    assert set(drawn(logits, replace(WARM, top_k=2), 100)) == {7, 30}
    assert set(drawn(logits, replace(WARM, top_p=0.01), 100)) == {7}
    assert set(drawn(logits, replace(WARM, min_p=1.0), 100)) == {7, 30, 41}
    flat = torch.zeros(1, VOCAB_SIZE)
    assert set(drawn(flat, replace(WARM, top_p=0.49), 1000)) == set(range(25))


# Multiples of a quarter, so that equal logits occur and others are well apart after any rounding.
QUARTERS = st.integers(-16, 16).map(lambda quarters: quarters / 4)
IDS = st.integers(0, VOCAB_SIZE - 1)
SOME_IDS = st.frozensets(IDS, max_size=3)


def maybe(neutral: object, values: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(st.just(neutral), values)


# Anything that the engine's door lets through; each feature is off in half of the cases.
SAMPLING_PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.just(20),
    temperature=maybe(0.0, st.sampled_from([1e-6, 0.1, 0.5, 1.0, 2.0])),
    top_p=maybe(1.0, st.floats(0.01, 1.0)),
    top_k=maybe(0, st.integers(1, VOCAB_SIZE + 5)),
    min_p=maybe(0.0, st.floats(0.0, 1.0)),
    presence_penalty=maybe(0.0, QUARTERS),
    frequency_penalty=maybe(0.0, QUARTERS),
    repetition_penalty=maybe(1.0, st.sampled_from([0.5, 1.5, 2.0])),
    logit_bias=maybe({}, st.dictionaries(IDS, QUARTERS, max_size=5)).map(
        lambda biases: tuple(biases.items())
    ),
    min_tokens=maybe(0, st.integers(0, 6)),
    stop_token_ids=maybe(frozenset(), SOME_IDS),
    eos_token_ids=maybe(frozenset(), SOME_IDS),
    ignore_eos=st.booleans(),
    seed=st.integers(-(2**63), 2**63 - 1),
    logprobs=maybe(None, st.integers(0, 20)),
)


class ListedTokens:
    """A mask that allows what it lists."""

    def __init__(self, *token_ids: int) -> None:
        self.token_ids = token_ids

    def accept(self, token_id: int) -> None:
        pass

    def fill(self, bitmask: np.ndarray, row: int) -> None:
        bitmask[row] = 0
        for token_id in self.token_ids:
            bitmask[row, token_id // 32] |= np.left_shift(1, token_id % 32).astype(np.int32)


@st.composite
def whole_rows(draw):
    """(logits, params, prompt, output, what a mask allows or None)"""
    choice = draw(st.randoms(use_true_random=False)).choice
    return (
        [choice(range(-16, 17)) / 4 for _ in range(VOCAB_SIZE)],
        draw(SAMPLING_PARAMS),
        draw(st.lists(st.integers(-2, VOCAB_SIZE - 1), max_size=10)),
        draw(st.lists(IDS, max_size=8)),
        draw(st.one_of(st.none(), st.none(), st.frozensets(IDS, max_size=6))),
    )


def to_sequence(row) -> Sequence:
    _, params, prompt, output, allowed = row
    sequence = Sequence("row", list(prompt), params)
    sequence.token_ids += output
    if allowed is not None:
        sequence.token_mask = ListedTokens(*allowed)
    return sequence


@settings(deadline=None, max_examples=200)
@given(whole_rows())
def test_a_row_is_what_the_documentation_says(row):
    logits, params, prompt, output, _ = row
    if 0 < params.temperature < 1e-5:  # as good as 0
        row = (logits, replace(params, temperature=0.0), prompt, output, None)

    (token,) = tokens_of(
        torch.tensor([logits]), [to_sequence((logits, params, prompt, output, None))]
    )

    expected = naive_token(logits, to_sequence((*row[:4], None)))
    if expected is not None:
        assert token == expected


@settings(deadline=None, max_examples=100)
@given(st.lists(whole_rows(), min_size=2, max_size=6), st.randoms())
def test_no_neighbour_changes_a_row(rows, random):
    """Tokens, errors and log-probabilities, to the last bit, whatever stands beside a row."""
    logits = torch.tensor([row[0] for row in rows])
    alone = [sample(logits[i : i + 1], [to_sequence(row)])[0] for i, row in enumerate(rows)]

    assert sample(logits, [to_sequence(row) for row in rows]) == alone

    order = random.sample(range(len(rows)), len(rows))
    shuffled = sample(logits[order], [to_sequence(rows[i]) for i in order])
    assert shuffled == [alone[i] for i in order]


def real_rows() -> list[Sequence]:
    """Of every kind, as in a server."""
    kinds = [
        {},
        {"temperature": 0.7},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 0.999999},
        {"temperature": 5.0, "top_p": 0.95},
        {"temperature": 1.0, "top_k": 50, "top_p": 0.95},
        {"temperature": 1.0, "top_k": 5000},
        {"temperature": 1.3, "min_p": 0.05, "repetition_penalty": 1.2},
        {"temperature": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.5, "logprobs": 5},
        {"logit_bias": ((5, 3.0), (31999, -100.0)), "logprobs": 20},
        {"temperature": 1e30},
        {"temperature": 1.0, "top_p": 0.9, "min_p": 0.1, "top_k": 200, "logprobs": 0},
    ]
    rows = [
        Sequence(str(i), list(range(100, 400)), SamplingParams(max_tokens=50, seed=i, **kind))
        for i, kind in enumerate(kinds)
    ]
    for row in rows:
        row.token_ids += [7, 8, 9, 7]
    return rows


@pytest.mark.parametrize("scale", [0.2, 4.0])
def test_no_neighbour_changes_a_row_of_the_real_width(scale):
    """Flat and peaked; rounded as bfloat16 rounds, so that there are equals, also at the top."""
    kinds = real_rows()
    generator = torch.Generator().manual_seed(int(scale * 10))
    logits = torch.randn(len(kinds), REAL_VOCAB_SIZE, generator=generator) * scale
    logits = logits.bfloat16().float()
    alone = [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(real_rows())]

    assert None not in [sampled.token_id for sampled in alone]
    assert sample(logits, real_rows()) == alone
    for number in (2, 5, 9):
        assert sample(logits[:number], real_rows()[:number]) == alone[:number]
        assert sample(logits[-number:], real_rows()[-number:]) == alone[-number:]
    twice = torch.cat([logits, logits.flip(0)])
    assert sample(twice, real_rows() + real_rows()[::-1]) == alone + alone[::-1]


@pytest.mark.parametrize("vocab_size", [1, 2, 31, 32, 33, 64, 101, 1000])
@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        WARM,
        replace(WARM, top_p=0.8),
        replace(WARM, top_k=3),
        replace(WARM, top_k=40, min_p=0.01),
    ],
)
def test_any_width_will_do(vocab_size, params):
    """Blocks of tokens are a way to be fast, and no width divides as nicely as the real one."""
    generator = torch.Generator().manual_seed(vocab_size)
    rows = [
        Sequence("row", [0], replace(params, seed=seed, logprobs=min(3, vocab_size)))
        for seed in range(30)
    ]
    logits = torch.randint(-8, 8, (30, vocab_size), generator=generator) / 4

    results = sample(logits, rows)

    for row, sequence, result in zip(logits.tolist(), rows, results, strict=True):
        assert naive_token(row, sequence) in (None, result.token_id)
        best = sorted(range(vocab_size), key=lambda token_id: (-row[token_id], token_id))[:3]
        assert [token_id for token_id, _ in result.logprobs.top] == best


@pytest.mark.parametrize(
    "params",
    [
        replace(WARM, temperature=0.8),
        replace(WARM, top_k=7),
        replace(WARM, top_k=600),
        replace(WARM, top_p=0.3),
        replace(WARM, top_p=0.97),
        replace(WARM, top_p=0.9999),
        replace(WARM, min_p=0.02),
        replace(WARM, temperature=0.6, top_k=100, top_p=0.95, min_p=0.01),
    ],
)
def test_tokens_come_as_often_as_transformers_would_have_them(params, monkeypatch):
    """Of the real width: transformers' own warpers, in its own order, against draws with evenly
    spread noise, so that every token comes as often as it is likely, give or take one draw."""
    num_draws = 200
    monkeypatch.setattr(sampler, "uniform", lambda seed, position: (seed + 0.5) / num_draws)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, REAL_VOCAB_SIZE, generator=generator) * 2.5
    ids = torch.zeros(1, 0, dtype=torch.int64)
    warped = transformers.TemperatureLogitsWarper(params.temperature)(ids, logits)
    if params.top_k:
        warped = transformers.TopKLogitsWarper(params.top_k)(ids, warped)
    if params.top_p < 1:
        warped = transformers.TopPLogitsWarper(params.top_p)(ids, warped)
    if params.min_p:
        warped = transformers.MinPLogitsWarper(params.min_p)(ids, warped)
    expected = warped.softmax(dim=-1)[0].double()

    rows = [make_row(replace(params, seed=seed)) for seed in range(num_draws)]
    drawn_ids = torch.tensor(tokens_of(logits.expand(num_draws, -1), rows))

    order = torch.arange(REAL_VOCAB_SIZE)
    if params.is_truncated:  # the draw goes through them in descending order
        order = expected.argsort(descending=True, stable=True)
    passed = torch.empty_like(expected)
    passed[order] = expected[order].cumsum(dim=0)
    noise = (torch.arange(num_draws) + 0.5) / num_draws
    assert (passed[drawn_ids] > noise - 1e-4).all()
    assert (passed[drawn_ids] - expected[drawn_ids] < noise + 1e-4).all()


def test_a_nucleus_of_nearly_all_is_found_where_a_first_guess_fails():
    """Most of the probability lies in tokens of which each has next to none."""
    logits = torch.zeros(1, REAL_VOCAB_SIZE)
    logits[0, 5] = 5.0  # 0.0046 of the whole
    rows = [make_row(replace(WARM, top_p=0.5, seed=seed)) for seed in range(100)]

    tokens = tokens_of(logits.expand(100, -1), rows)

    # Of the equals the first half belongs to the nucleus.
    assert 15_500 < max(tokens) < 16_000
    assert min(tokens) < 500


@pytest.mark.parametrize("params", [GREEDY, WARM, replace(WARM, top_p=0.9, top_k=3, logprobs=2)])
def test_a_row_that_nothing_is_allowed_in_fails_alone(params):
    logits = random_logits(3)
    rows = [make_row(replace(params, seed=seed)) for seed in range(3)]
    whole = sample(logits, rows)
    rows[1].token_mask = ListedTokens()

    first, bad, last = sample(logits, rows)

    assert (bad.token_id, bad.logprobs) == (None, None)
    assert bad.error == "no token was allowed to come next"
    assert (first, last) == (whole[0], whole[2])


def test_a_bias_of_minus_a_hundred_on_every_token_changes_nothing():
    """Reliability's B7: it ends without NaN."""
    logits = random_logits(4)
    bias = tuple((token_id, -100.0) for token_id in range(VOCAB_SIZE))
    plain = [make_row(replace(WARM, seed=seed, top_p=0.9)) for seed in range(4)]
    biased = [make_row(replace(row.params, logit_bias=bias)) for row in plain]

    assert tokens_of(logits, biased) == tokens_of(logits, plain)


@pytest.mark.parametrize(
    "params",
    [
        replace(WARM, temperature=1e-5),
        replace(WARM, temperature=1.7e308),
        replace(WARM, temperature=1.7e308, logit_bias=((3, -100.0),)),
        replace(WARM, top_p=5e-324),
        replace(WARM, top_p=1 - 1e-16),
        replace(WARM, min_p=5e-324),
        replace(WARM, repetition_penalty=5e-324),
        replace(WARM, repetition_penalty=100.0, presence_penalty=100.0, frequency_penalty=100.0),
        replace(WARM, repetition_penalty=0.01, presence_penalty=-100.0, frequency_penalty=-100.0),
    ],
)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e3])
def test_extreme_values_that_the_door_lets_through_break_nothing(params, scale):
    params.check(VOCAB_SIZE)
    logits = random_logits(2) * scale
    rows = [make_row(replace(params, seed=1), [4, 5, 4]), make_row(replace(WARM, seed=2))]

    extreme, neighbour = sample(logits, rows)

    assert extreme.token_id is None or 0 <= extreme.token_id < VOCAB_SIZE
    assert extreme.token_id is not None or params.repetition_penalty == 5e-324
    assert neighbour == sample(logits[1:], rows[1:])[0]


@pytest.mark.parametrize(
    "params",
    [
        replace(WARM, presence_penalty=-math.inf),
        replace(WARM, repetition_penalty=0.0),
        replace(GREEDY, logit_bias=((4, math.nan),)),
        replace(WARM, logit_bias=((4, 3e38),), top_p=0.9),
    ],
)
def test_values_that_the_door_should_not_have_let_through_fail_alone(params):
    logits = random_logits(2)
    logits[0, 4] = 1.0
    rows = [make_row(params, [4]), make_row(WARM)]

    bad, neighbour = sample(logits, rows)

    assert bad == SampledToken(None, error="the model's output was not finite")
    assert neighbour == sample(logits[1:], rows[1:])[0]


def test_a_banned_token_never_comes_however_flat_the_rest():
    logits = torch.full((1, 64), -3.0)
    params = replace(
        WARM, temperature=1.7e308, min_tokens=5, stop_token_ids=frozenset(range(0, 64, 2))
    )

    assert set(drawn(logits, params, 2000)) == set(range(1, 64, 2))


def test_the_noise_at_its_ends_still_draws_a_possible_token(monkeypatch):
    """0 must not draw the first token of all, nor the largest number below 1 the last one."""
    rows = [make_row(WARM), make_row(replace(WARM, top_p=0.95))]
    for row in rows:
        row.token_mask = ListedTokens(*range(20, 30))

    for noise, expected in ((0.0, [20, 20]), (1 - 2**-53, [29, 29])):
        monkeypatch.setattr(sampler, "uniform", lambda seed, position, noise=noise: noise)
        assert tokens_of(torch.zeros(2, VOCAB_SIZE), rows) == expected


def test_a_block_of_tokens_that_each_round_to_nothing_draws_none_that_is_banned(monkeypatch):
    """Four of e⁻²⁸·⁵ are a unit together; the noise finds their block, and one of them in it."""
    logits = torch.full((1, VOCAB_SIZE), -28.5)
    logits[0, 40] = 0.0
    row = make_row(WARM)
    row.token_mask = ListedTokens(20, 21, 22, 23, 40)  # a block has five
    monkeypatch.setattr(sampler, "uniform", lambda seed, position: 0.0)

    assert tokens_of(logits, [row]) == [20]


def test_logits_may_lie_in_memory_as_they_like():
    logits = random_logits(3)
    rows = [make_row(replace(WARM, presence_penalty=1.0, logprobs=2), [4, 5]) for _ in range(3)]

    assert sampler.sample(logits.t().contiguous().t(), rows) == sample(logits, rows)


@pytest.mark.parametrize("row", real_rows(), ids=lambda row: row.id)
def test_a_gpu_is_never_waited_for_before_the_one_copy(row):
    """A tensor without values stands in for the device: reading one would raise. Two rows of each
    kind, because tensors of a single value have one there."""
    masked = make_row(replace(WARM, min_tokens=9, stop_token_ids=frozenset({3, 4})))
    masked.token_mask = ListedTokens(1, 2)

    with FakeTensorMode(), torch.inference_mode():
        for rows in ([row] * 2, [make_row(GREEDY), row, masked, make_row(WARM)] * 2):
            chosen, _ = choose(torch.empty(len(rows), REAL_VOCAB_SIZE, device="cuda"), rows)

    assert chosen.device.type == "cuda"
    assert chosen.shape == (8,)
