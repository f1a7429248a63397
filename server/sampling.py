"""A request's parameters → how its tokens are chosen."""

import secrets
from typing import Any

from model_config import Card
from scoring.engine_config import EngineLimits
from scoring.sequence import SamplingParams

from .errors import InvalidRequestError
from .schemas import ChatCompletionsRequest


def check_parameters(request: ChatCompletionsRequest, limits: EngineLimits) -> None:
    """Raise InvalidRequestError, naming the parameter, for what no range of its own tells: what
    contradicts another parameter, and what the model's sizes do not allow."""
    room = limits.max_model_len - 1
    requirements = (
        (
            "top_logprobs",
            request.top_logprobs is None or bool(request.logprobs),
            "needs logprobs to be true",
        ),
        (
            "stream_options",
            request.stream_options is None or bool(request.stream),
            "needs stream to be true",
        ),
        (
            "max_completion_tokens",
            request.max_tokens is None or request.max_completion_tokens is None,
            "is max_tokens by another name; give one of them",
        ),
        (
            "min_tokens",
            (request.min_tokens or 0) <= min(_given(request.most_tokens, room), room),
            f"is {request.min_tokens}; at most max_tokens, and less than the context, "
            f"{limits.max_model_len}",
        ),
    )
    for name, holds, message in requirements:
        if not holds:
            raise InvalidRequestError(f"{name} {message}", ("body", name), getattr(request, name))
    for name in ("stop_token_ids", "logit_bias"):
        for token_id in getattr(request, name) or ():
            if not 0 <= token_id < limits.vocab_size:
                raise InvalidRequestError(
                    f"{name} has the token id {token_id}; allowed: 0 … {limits.vocab_size - 1}",
                    ("body", name),
                    token_id,
                )


def to_sampling_params(
    request: ChatCompletionsRequest, card: Card, eos_token_ids: frozenset[int], limits: EngineLimits
) -> SamplingParams:
    """Of checked parameters. What the request does not say, the card does."""
    min_tokens = request.min_tokens or 0
    top_k = max(request.top_k or 0, 0)
    max_tokens = _given(request.most_tokens, max(card.max_tokens, min_tokens))
    return SamplingParams(
        max_tokens=min(max_tokens, limits.max_model_len),
        min_tokens=min_tokens,
        temperature=_given(request.temperature, card.temperature),
        top_p=_given(request.top_p, card.top_p),
        top_k=top_k if top_k < limits.vocab_size else 0,
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=_given(request.repetition_penalty, 1.0),
        logit_bias=tuple((request.logit_bias or {}).items()),
        seed=_given(request.seed, secrets.randbits(63)),
        stop_token_ids=frozenset(request.stop_token_ids or ()),
        eos_token_ids=eos_token_ids,
        ignore_eos=bool(request.ignore_eos),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
