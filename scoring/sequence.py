"""The objects that travel through the engine: a Sequence in, TokenOutputs out."""

import hashlib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidSequenceError
from .grammar import Grammar
from .image_processor import HDPicture
from .token_history import TokenHistory

MAX_LOGPROBS = 20
MAX_LOGIT_BIASES = 1024
PENDING = -(2**31)
"""In token_ids: a token that has been sampled on the device and that the host does not know yet."""
MAX_GRAMMAR_CHARS = 1 << 17
# Of penalties and biases: 100 bans or forces a token; far beyond it float32 would overflow.
_MAX_PENALTY = 100.0


class FinishReason(StrEnum):
    """Why a sequence ended. ABORT: it waited too long to be begun. ERROR is the row's own fault or
    misfortune; its neighbours go on."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class Failure(StrEnum):
    """What kind of ERROR it was. MEMORY: too little beside the others; NEVER_FITS: too little,
    though nothing else ran; MODEL: anything else."""

    MODEL = "model"
    MEMORY = "memory"
    NEVER_FITS = "never_fits"


@dataclass(frozen=True)
class SamplingParams:
    """How one sequence's tokens are chosen. The neutral value of each field costs nothing.

    When it ends:
    max_tokens: output tokens at most, at least 1. min_tokens: so many before one that ends the
    text can be sampled; 0 … max_tokens. stop_token_ids: ids that end the text, given by the
    caller. eos_token_ids: the model's own, which end it unless ignore_eos.

    What changes the logits, in the order of application:
    1. logit_bias: (id, bias), each id once, bias −100 … 100; added.
    2. repetition_penalty: 0 < r ≤ 100, 1 is off. As in transformers and vLLM: a positive logit is
       divided by r, any other multiplied, once for each token that stands in the prompt or in the
       output. The slots of images are no tokens.
    3. presence_penalty, frequency_penalty: −100 … 100, 0 is off. As in OpenAI's API: subtracted
       from the tokens of the output, the second times their number there. The prompt is not
       counted.
    4. min_tokens: what would end the text too early is banned.
    5. Sequence.token_mask.

    What the draw is from, in the order of application:
    6. temperature: 0 or more; 0 is greedy: the most likely token, the first of equals, and no draw.
    7. top_k: 0 is off. The k most likely tokens stay; of equals, those with the lower id.
    8. top_p: 0 < p ≤ 1, 1 is off. Of what is left, the fewest most likely tokens that have p of
       its probability together.
    9. min_p: 0 … 1, 0 is off. What is at least min_p times as likely as the most likely token.

    seed: 64 bits, signed. The noise of a token is a function of (seed, its position), so that
    neighbours in the batch change nothing. logprobs: None, or how many alternatives to report
    beside each sampled token, 0 … 20; of the raw logits, before any of the above.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    eos_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        """All that end the text."""
        return self.stop_token_ids | (frozenset() if self.ignore_eos else self.eos_token_ids)

    @cached_property
    def has_penalties(self) -> bool:
        return bool(
            self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        )

    @cached_property
    def is_truncated(self) -> bool:
        """Whether the draw is from fewer than all tokens."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

    @cached_property
    def bias_arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """logit_bias: the ids, and what is added to each."""
        ids, values = zip(*self.logit_bias, strict=True) if self.logit_bias else ((), ())
        return np.array(ids, dtype=np.int64), np.array(values, dtype=np.float32)

    @cached_property
    def end_array(self) -> NDArray[np.int64]:
        return np.array(sorted(self.end_token_ids), dtype=np.int64)

    def check(self, vocab_size: int) -> None:
        """Raise InvalidSequenceError for a value out of its range, naming field, value and range.

        vocab_size is the width of the logits. Every comparison fails for NaN.
        """
        requirements = (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, f"0 … {self.max_tokens}"),
            ("temperature", 0 <= self.temperature < inf, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 … 1"),
            ("repetition_penalty", 0 < self.repetition_penalty <= _MAX_PENALTY, "0 … 100, not 0"),
            ("presence_penalty", abs(self.presence_penalty) <= _MAX_PENALTY, "-100 … 100"),
            ("frequency_penalty", abs(self.frequency_penalty) <= _MAX_PENALTY, "-100 … 100"),
            ("seed", -(2**63) <= self.seed < 2**63, "-2**63 … 2**63 - 1"),
            ("logprobs", 0 <= (self.logprobs or 0) <= MAX_LOGPROBS, f"0 … {MAX_LOGPROBS}"),
        )
        for name, holds, allowed in requirements:
            if not holds:
                raise InvalidSequenceError(f"{name} is {getattr(self, name)}; allowed: {allowed}")
        biased = [token_id for token_id, _ in self.logit_bias]
        if len(biased) > MAX_LOGIT_BIASES:
            raise InvalidSequenceError(
                f"logit_bias has {len(biased)} entries; allowed: {MAX_LOGIT_BIASES}"
            )
        if len(set(biased)) < len(biased):
            raise InvalidSequenceError("logit_bias has an id twice")
        for token_id, bias in self.logit_bias:
            if not abs(bias) <= _MAX_PENALTY:
                raise InvalidSequenceError(
                    f"logit_bias of token {token_id} is {bias}; allowed: -100 … 100"
                )
        for name, ids in (
            ("logit_bias", biased),
            ("stop_token_ids", self.stop_token_ids),
            ("eos_token_ids", self.eos_token_ids),
        ):
            for token_id in ids:
                if not 0 <= token_id < vocab_size:
                    raise InvalidSequenceError(
                        f"{name} has the token id {token_id}; allowed: 0 … {vocab_size - 1}"
                    )


class TokenMask(Protocol):
    """What may come next in one sequence: a grammar's state.

    The sampler calls accept once for every output token, in order, and then fill, once for every
    token to be sampled. A step that failed and is run again may call fill again without an accept
    between. What either raises fails this sequence alone. A row that nothing is allowed in fails,
    too: a grammar that is complete must allow the ids that end the text.
    """

    def accept(self, token_id: int) -> None:
        """The token has been sampled."""

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        """Write bitmask[row], all of it: bit i % 32 of word i // 32 allows token i. Bits beyond
        the vocabulary do not matter. The layout is llguidance's and xgrammar's."""


@dataclass(frozen=True)
class ImageSpan:
    """One picture and its slots in the prompt: token indices start … start + num_tokens."""

    picture: HDPicture
    start: int

    @property
    def end(self) -> int:
        return self.start + self.picture.num_tokens

    def salted(self, salt: bytes) -> "ImageSpan":
        """The same picture as callers with this salt know it: others' features of it are not
        found. No salt changes nothing."""
        if not salt:
            return self
        digest = hashlib.sha256(salt + self.picture.digest).digest()
        return replace(self, picture=replace(self.picture, digest=digest))


@dataclass(eq=False)
class Sequence:
    """One request's tokens. Belongs to the engine's thread once it is submitted.

    token_ids: prompt, then output. The slots of image i hold the id -(i + 1), as in the published
    processor's output; no other id is negative, but for a last one that is PENDING while a step is
    under way. salt separates the prefix caches of callers who must not learn of each other; their
    images are salted, too. deadline: on time.monotonic's clock, after which the sequence
    ends with what it has; queue_deadline: after which it is no longer begun. grammar: of the
    output, if not any will do; the engine makes a token_mask of it before the sequence begins.

    What the engine keeps: num_computed tokens have their keys in the cache, in the blocks of
    block_table; block_hashes names the complete ones; table_version tells one block_table from the
    next, after all its blocks were given back; long_rope is the regime the keys are rotated in.
    num_cached of its tokens were in the prefix cache when it was first admitted. is_over: it has
    ended; what a step under way may yet say of it is not wanted. begun: on time.monotonic's clock,
    when its first step was scheduled; encoded: when the last of its pictures' was done.

    What the sampler keeps: token_mask has accepted num_accepted output tokens; history holds the
    tokens that penalties are for.
    """

    id: str
    token_ids: list[int]
    params: SamplingParams
    images: tuple[ImageSpan, ...] = ()
    salt: bytes = b""
    deadline: float | None = None
    queue_deadline: float | None = None
    grammar: Grammar | None = None
    token_mask: TokenMask | None = None
    num_prompt_tokens: int = field(init=False)
    num_computed: int = field(default=0, init=False)
    num_cached: int | None = field(default=None, init=False)
    is_over: bool = field(default=False, init=False)
    begun: float | None = field(default=None, init=False)
    encoded: float | None = field(default=None, init=False)
    block_table: list[int] = field(default_factory=list, init=False)
    block_hashes: list[bytes] = field(default_factory=list, init=False)
    table_version: int = field(default=0, init=False)
    long_rope: bool = field(default=False, init=False)
    num_accepted: int = field(default=0, init=False)
    history: TokenHistory | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)

    def check_grammar(self) -> None:
        """Raise InvalidSequenceError for a grammar that is too long, or that something else than
        its own end would end."""
        if self.grammar is None:
            return
        params, num_chars = self.params, len(self.grammar.text)
        if num_chars > MAX_GRAMMAR_CHARS:
            raise InvalidSequenceError(
                f"the grammar has {num_chars} characters; allowed: {MAX_GRAMMAR_CHARS}"
            )
        if not params.eos_token_ids or params.ignore_eos:
            raise InvalidSequenceError("ignore_eos: a grammar needs what ends the text")
        if params.min_tokens:
            raise InvalidSequenceError("min_tokens: not with a grammar, which ends where it ends")
        if params.stop_token_ids - params.eos_token_ids:
            raise InvalidSequenceError(
                "stop_token_ids: not with a grammar, which they could cut short"
            )

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def is_pending(self) -> bool:
        """Whether the host waits for the newest token."""
        return self.token_ids[-1] == PENDING

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of probabilities under the raw logits: the sampled token's, and the
    most likely tokens' with theirs, best first."""

    sampled: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TokenOutput:
    """One step's outcome for one sequence. token_id is None where it ended without a new token.

    num_cached: prompt tokens that came from the prefix cache. error, failure: a sentence fit for
    the caller, and its kind; with finish_reason ERROR only. begun, encoded: the sequence's, with
    its first token.
    """

    sequence_id: str
    token_id: int | None
    finish_reason: FinishReason | None = None
    logprobs: Logprobs | None = None
    num_cached: int = 0
    error: str | None = None
    failure: Failure | None = None
    begun: float | None = None
    encoded: float | None = None
