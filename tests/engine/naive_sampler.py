"""Sampling as its documentation says it, one row and one token at a time, in plain Python."""

import math
from collections import Counter

from scoring.sampler import uniform
from scoring.sequence import Sequence

# Our float32 and this float64 may disagree where the noise comes nearer than this to a boundary.
MARGIN = 1e-5


def processed(logits: list[float], sequence: Sequence) -> list[float]:
    """Biases, penalties and the ban on ending early. No mask."""
    params, result = sequence.params, list(logits)
    for token_id, bias in params.logit_bias:
        result[token_id] += bias
    if params.repetition_penalty != 1:
        for token_id in {token_id for token_id in sequence.token_ids if token_id >= 0}:
            if result[token_id] > 0:
                result[token_id] /= params.repetition_penalty
            else:
                result[token_id] *= params.repetition_penalty
    for token_id, count in Counter(sequence.output_ids).items():
        result[token_id] -= params.presence_penalty + count * params.frequency_penalty
    if sequence.num_output_tokens < params.min_tokens:
        model = set() if params.ignore_eos else set(params.eos_token_ids)
        for token_id in model | set(params.stop_token_ids):
            result[token_id] = -math.inf
    return result


def ranking(logits: list[float]) -> list[int]:
    return sorted(range(len(logits)), key=lambda token_id: (-logits[token_id], token_id))


def distribution(logits: list[float], sequence: Sequence) -> dict[int, float] | None:
    """What the token is drawn from, in the order that the draw goes through it. None where
    rounding decides which tokens belong to it."""
    params = sequence.params
    top = max(logits)
    weights = [math.exp((logit - top) / params.temperature) for logit in logits]
    total = sum(weights)
    kept = ranking(logits)
    if params.top_k:
        kept = kept[: params.top_k]
    if params.top_p < 1:
        nucleus, before = [], 0.0
        left = sum(weights[token_id] for token_id in kept)
        for token_id in kept:
            if abs(before - params.top_p * left) < MARGIN * total:
                return None
            if before < params.top_p * left:
                nucleus.append(token_id)
            before += weights[token_id]
        kept = nucleus
    if params.min_p:
        if any(abs(weight / max(weights) - params.min_p) < MARGIN for weight in weights):
            return None
        kept = [token_id for token_id in kept if weights[token_id] >= params.min_p]
    if not params.is_truncated:
        kept = sorted(kept)
    left = sum(weights[token_id] for token_id in kept)
    return {token_id: weights[token_id] / left for token_id in kept}


def naive_token(logits: list[float], sequence: Sequence) -> int | None:
    """The token; None where rounding decides."""
    logits = processed(logits, sequence)
    if sequence.params.temperature == 0:
        return ranking(logits)[0]
    noise = uniform(sequence.params.seed, len(sequence.token_ids))
    probabilities = distribution(logits, sequence)
    if probabilities is None:
        return None
    passed = 0.0
    for token_id, probability in probabilities.items():
        passed += probability
        if abs(passed - noise) < MARGIN:
            return None
        if passed > noise:
            return token_id
    return None
