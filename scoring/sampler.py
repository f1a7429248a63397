"""Logits → tokens, for a whole batch at once.

First what changes the logits (`logits_processors`), then the draw: temperature, top-k, top-p,
min-p, one token. SamplingParams has the exact meaning and order. Log-probabilities are of the raw
logits, before any of it. The draw's noise is a function of the row's seed and the token's position
alone, and nothing is computed in an order that depends on how many rows there are: a request gives
the same tokens by itself and among others.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2b

import torch
from torch import Tensor

from .logits_processors import process
from .ranking import best, floor_of_largest, in_blocks, largest, pick_blocks, ranked
from .scheduler import SampledToken
from .sequence import Logprobs, Sequence
from .transfers import to_device

# Below this, dividing by the temperature could overflow; the outcome is the argmax anyhow.
_GREEDY_BELOW = 1e-5
# Beyond these, numbers are as good as infinite: dividing one by the other stays in float32.
_MAX_TEMPERATURE, _MAX_LOGIT = 1e30, 1e30
# What a row sends to the host in place of a token.
_NOT_FINITE, _NOTHING_ALLOWED = -1, -2
_FAILED = {
    _NOT_FINITE: SampledToken(None),
    _NOTHING_ALLOWED: SampledToken(None, error="no token was allowed to come next"),
}
# Before they are cumulated, probabilities are rounded down to multiples of 1 / _UNIT: sums of so
# many bits are exact in float64, in whatever order a device adds.
_UNIT = 2.0**40
# The tokens outside of a nucleus of p rarely have more than (1 - p) / _TAIL each.
_TAIL = 2000


class Draw(Enum):
    """How much of the draw some rows need together."""

    GREEDY = auto()
    WHOLE = auto()  # from all tokens
    TRUNCATED = auto()


@dataclass(frozen=True)
class Selection:
    """What was sampled, on the device. ids: (rows,) int64, fit for indexing. told: what the host is
    to know, read by `to_sampled`; (rows,) int64, a token or a reason for none of each row, or
    float64 (rows, 2 + 2k) with k log-probabilities, where a row wants them: that, the token's own,
    k ids, k values."""

    ids: Tensor
    told: Tensor


Choose = Callable[[Tensor, Items[Sequence]], tuple[Tensor, Tensor]]


def sample(logits: Tensor, sequences: Items[Sequence]) -> list[SampledToken]:
    """logits: float32 (rows, vocab), a row per sequence; overwritten → a token per row.

    A row gets no token if a raw logit is not finite, or if nothing is left that may come next. Its
    neighbours do not notice.
    """
    return to_sampled(select(logits, sequences).told.cpu(), sequences)


def select(logits: Tensor, sequences: Items[Sequence], how: Choose | None = None) -> Selection:
    """What `sample` does on the device, without waiting for it. how: another way to do what
    `choose` does."""
    logits = logits.contiguous()
    asking = [i for i, s in enumerate(sequences) if s.params.logprobs is not None]
    raw = _pick(logits, asking).log_softmax(dim=-1) if asking else None
    chosen, ids = (how or choose)(logits, sequences)
    if raw is None:
        return Selection(ids, chosen)
    wanted = [sequences[i].params.logprobs or 0 for i in asking]
    best_values, best_ids = largest(raw, wanted)
    own = raw.gather(-1, _pick(ids, asking)[:, None])
    told = torch.zeros(
        len(sequences), 2 + 2 * best_ids.shape[1], dtype=torch.float64, device=logits.device
    )
    told[:, 0] = chosen
    columns = torch.cat((own.double(), best_ids.double(), best_values.double()), dim=1)
    told[:, 1:].index_copy_(0, _index(asking, logits), columns)
    return Selection(ids, told)


def to_sampled(told: Tensor, sequences: Items[Sequence]) -> list[SampledToken]:
    """Selection.told, on the host → a token per row."""
    if told.dim() == 1:
        return [SampledToken(token) if token >= 0 else _FAILED[token] for token in told.tolist()]
    sampled = []
    for (token, own, *rest), sequence in zip(told.tolist(), sequences, strict=True):
        wanted, half = sequence.params.logprobs, len(rest) // 2
        if token < 0:
            sampled.append(_FAILED[token])
        elif wanted is None:
            sampled.append(SampledToken(int(token)))
        else:
            best_ids, values = map(int, rest[:half][:wanted]), rest[half:][:wanted]
            top = tuple(zip(best_ids, values, strict=True))
            sampled.append(SampledToken(int(token), Logprobs(own, top)))
    return sampled


def choose(logits: Tensor, sequences: Items[Sequence]) -> tuple[Tensor, Tensor]:
    """→ a token or a reason for none of each row; and tokens without the reasons, for indexing.
    logits: contiguous, overwritten."""
    finite = are_finite(logits)
    process(logits, sequences)
    top, tokens = best(logits)
    rows = [i for i, s in enumerate(sequences) if s.params.temperature >= _GREEDY_BELOW]
    if len(rows) == len(sequences):
        tokens = _draw(logits, sequences)
    elif rows:
        drawn = _draw(_pick(logits, rows), [sequences[i] for i in rows])
        tokens.index_copy_(0, _index(rows, logits), drawn)
    return _with_reasons(finite, top, tokens), tokens


def choose_alike(
    logits: Tensor, finite: Tensor, settings: Tensor, draw: Draw
) -> tuple[Tensor, Tensor]:
    """As `choose` after `process`, but that every row takes the same way, so that what is computed
    depends on shapes alone: it can be captured. settings: (rows, 5), a row of `draw_settings` for
    each. draw: what `draw_needed` says, or more."""
    top, tokens = best(logits)
    if draw is not Draw.GREEDY:
        is_greedy = settings[:, :1] < _GREEDY_BELOW
        temperature = settings[:, :1].masked_fill(is_greedy, 1.0)
        probs = logits.div(temperature.float()).softmax(dim=-1)
        drawn = _invert(probs, settings[:, 1:2])
        if draw is Draw.TRUNCATED:
            _, _, top_k, top_p, min_p = settings.unbind(dim=-1)
            is_truncated = (top_k > 0) | (top_p < 1) | (min_p > 0)
            drawn = torch.where(is_truncated, _draw_truncated(ranked(probs), settings), drawn)
        tokens = torch.where(is_greedy.squeeze(-1), tokens, drawn)
    return _with_reasons(finite, top, tokens), tokens


def are_finite(logits: Tensor) -> Tensor:
    """(rows,) bool. Infinities and NaNs are the numbers whose sum is not finite: one pass that only
    reads."""
    return logits.sum(dim=-1).isfinite()


def draw_needed(sequences: Items[Sequence]) -> Draw:
    drawn = [s.params for s in sequences if s.params.temperature >= _GREEDY_BELOW]
    if any(params.is_truncated for params in drawn):
        return Draw.TRUNCATED
    return Draw.WHOLE if drawn else Draw.GREEDY


def draw_settings(sequence: Sequence) -> tuple[float, float, float, float, float]:
    """Of the sequence's next draw: temperature, noise, top-k, top-p, min-p."""
    p = sequence.params
    noise = uniform(p.seed, len(sequence.token_ids))
    return min(p.temperature, _MAX_TEMPERATURE), noise, p.top_k, p.top_p, p.min_p


def _with_reasons(finite: Tensor, top: Tensor, tokens: Tensor) -> Tensor:
    chosen = torch.where(finite & (top.abs() < _MAX_LOGIT), tokens, _NOT_FINITE)
    return torch.where(finite & (top == -torch.inf), _NOTHING_ALLOWED, chosen)


def _draw(logits: Tensor, sequences: Items[Sequence]) -> Tensor:
    """A random token per row, (rows,). logits: overwritten."""
    rows = torch.tensor([draw_settings(s) for s in sequences], dtype=torch.float64)
    settings = to_device(rows, logits.device)
    temperature, noise, *_ = settings.chunk(5, dim=-1)
    probs = logits.div_(temperature.float()).softmax(dim=-1)
    truncated = [i for i, s in enumerate(sequences) if s.params.is_truncated]
    if not truncated:
        return _invert(probs, noise)
    if len(truncated) == len(sequences):
        return _draw_truncated(_candidates(probs, settings), settings)
    tokens = torch.empty(len(sequences), dtype=torch.int64, device=logits.device)
    whole = [i for i, s in enumerate(sequences) if not s.params.is_truncated]
    probs_there, settings_there = _pick(probs, truncated), _pick(settings, truncated)
    drawn = _draw_truncated(_candidates(probs_there, settings_there), settings_there)
    tokens.index_copy_(0, _index(truncated, logits), drawn)
    drawn = _invert(_pick(probs, whole), _pick(noise, whole))
    return tokens.index_copy_(0, _index(whole, logits), drawn)


def _invert(probs: Tensor, noise: Tensor) -> Tensor:
    """The token where the cumulated probability passes noise (rows, 1): first the block that it is
    in, then, with what is left of the noise, its place there."""
    blocks = in_blocks(probs)
    sums = _to_weights(blocks.sum(dim=-1))
    cumulated = sums.cumsum(dim=-1)
    target = _target(noise, cumulated)
    block = _first_beyond(cumulated, target)
    weight = sums.gather(-1, block)
    rest = (target - (cumulated.gather(-1, block) - weight)) / weight
    inside = pick_blocks(blocks, block.squeeze(-1))
    cumulated = _to_weights(inside / inside.amax(dim=-1, keepdim=True)).cumsum(dim=-1)
    place = _first_beyond(cumulated, _target(rest, cumulated))
    return (block * blocks.shape[-1] + place).squeeze(-1)


def _draw_truncated(candidates: tuple[Tensor, Tensor], settings: Tensor) -> Tensor:
    """As _invert, of the tokens that top-k, top-p and min-p leave, the most likely first.
    candidates: probabilities in descending order and their ids, of all that may be drawn."""
    _, noise, top_k, top_p, min_p = settings.chunk(5, dim=-1)
    values, ids = candidates
    weights = _to_weights(values.clamp(min=0))
    rank = torch.arange(weights.shape[-1], device=weights.device)
    weights *= (top_k == 0) | (rank < top_k)
    total = torch.where(top_k > 0, weights.sum(dim=-1, keepdim=True), _UNIT)
    # A token stays while those before it do not reach top_p, so the likeliest always stays.
    before = weights.cumsum(dim=-1) - weights
    weights *= before < top_p * total
    weights *= values >= min_p.float() * values.narrow(-1, 0, 1)
    cumulated = weights.cumsum(dim=-1)
    return ids.gather(-1, _first_beyond(cumulated, _target(noise, cumulated))).squeeze(-1)


def _candidates(probs: Tensor, settings: Tensor) -> tuple[Tensor, Tensor]:
    """Those of _draw_truncated; on a CPU, where sorting is slow, as few as can be told quickly."""
    _, _, top_k, top_p, min_p = settings.chunk(5, dim=-1)
    if probs.device.type != "cpu":
        return ranked(probs)
    nucleus = (top_k == 0) & (top_p < 1)
    tail = torch.where(nucleus, 1 - top_p, 0.0)
    # If all below it were as likely as the floor, they would still have but half of the tail.
    floor = torch.where(tail > 1e-5, tail / (2 * probs.shape[-1]), 0.0).float()
    floor = floor.maximum(min_p.float() * probs.amax(dim=-1, keepdim=True))
    if top_k.any():  # all of them count for top-p, so that min-p must not hide any
        floor = torch.where(top_k > 0, floor_of_largest(probs, top_k), floor)
    likely = floor.maximum((tail / _TAIL).float())
    values, ids = ranked(probs, likely)
    mass = _to_weights(values.clamp(min=0)).sum(dim=-1, keepdim=True)
    short = (likely > floor) & (mass < top_p * _UNIT)
    if short.any():
        values, ids = ranked(probs, torch.where(short, floor, likely))
    return values, ids


def _to_weights(probs: Tensor) -> Tensor:
    """In whole numbers of units. probs: overwritten."""
    return probs.mul_(_UNIT).floor_().double()


def _target(noise: Tensor, cumulated: Tensor) -> Tensor:
    """What to pass: less than the sum, since the noise is less than 1 by as much as float64 can
    tell."""
    return noise * cumulated.narrow(-1, cumulated.shape[-1] - 1, 1)


def _first_beyond(cumulated: Tensor, target: Tensor) -> Tensor:
    index = torch.searchsorted(cumulated, target, right=True)
    return index.clamp(max=cumulated.shape[-1] - 1)


def uniform(seed: int, position: int) -> float:
    """The noise of one draw, in [0, 1): a hash of the seed and the token's position."""
    key = seed.to_bytes(8, "little", signed=True) + position.to_bytes(8, "little")
    return (int.from_bytes(blake2b(key, digest_size=8).digest()) >> 11) / (1 << 53)


def _pick(values: Tensor, rows: list[int]) -> Tensor:
    """A copy of these rows. Indexing with brackets would take six times as long on a CPU."""
    return values.index_select(0, _index(rows, values))


def _index(rows: list[int], like: Tensor) -> Tensor:
    return to_device(torch.tensor(rows), like.device)
