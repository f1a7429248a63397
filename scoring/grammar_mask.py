"""Grammars compiled to token masks, by llguidance. Imports no torch: two processes do it."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask
from numpy.typing import NDArray

from .errors import GrammarError
from .grammar import Grammar

logger = logging.getLogger(__name__)

_MAX_REASON = 200
# A mask takes microseconds; these end one that would take longer than about 10 ms. max_items: a
# thousand optional properties need four thousand. A hundred thousand states take 10 MB.
_LIMITS = LLParserLimits(
    max_items_in_row=8000,
    step_max_items=50_000,
    step_lexer_fuel=100_000,
    max_lexer_states=100_000,
    verbose_errors=False,
)


class GrammarTokenizer:
    """A tokenizer.json as grammars see it: text only, and what ends it. Made in 0.2 s."""

    def __init__(
        self, path: Path, end_token_ids: frozenset[int], vocab_size: int | None = None
    ) -> None:
        """end_token_ids: allowed where a text may end, and nowhere else. vocab_size: the logits'
        width; None for as wide as it must be."""
        description = json.loads(path.read_text(encoding="utf-8"))
        vocabulary, controls = description["model"]["vocab"], set(end_token_ids)
        # Where a grammar leaves but one way to go on, llguidance tokenizes that text, and "<|end|>"
        # in it must not become the control token. So control tokens become words like any other,
        # but no merge leads to them, and the masks leave them out.
        for token in description["added_tokens"]:
            vocabulary[token["content"]] = token["id"]
            controls.add(token["id"])
        description |= {"added_tokens": [], "post_processor": None}
        num_tokens = vocab_size or 1 + max(vocabulary.values())
        self._tokenizer = LLTokenizer(
            json.dumps(description), n_vocab=num_tokens, eos_token=sorted(end_token_ids)
        )
        self._in_text = _words_without(controls, num_tokens)
        self._at_end = _words_without(controls - end_token_ids, num_tokens)

    def compile(self, grammar: Grammar) -> "GrammarMask":
        """Mostly done in a millisecond, without the interpreter's lock; but nothing here bounds
        it: see grammar_checker.py. Raises GrammarError with llguidance's reason."""
        matcher = LLMatcher(self._tokenizer, grammar.text, log_level=0, limits=_LIMITS)
        # The masks before and after the first space make most of the lexer's states, and show a
        # grammar that nothing fulfils.
        for text in (b"", b" "):
            num_consumed = matcher.try_consume_tokens(self._tokenizer.tokenize_bytes(text))
            mask = b"" if matcher.is_error() else matcher.compute_bitmask()
            if matcher.is_error() or not any(mask):
                raise GrammarError(_reason(matcher))
            matcher.rollback(num_consumed)
        return GrammarMask(matcher, self._in_text, self._at_end)


class GrammarMask:
    """A TokenMask. Control tokens are never allowed; what ends the text is where it is complete.

    A grammar that cannot go on, because a limit is reached say, allows nothing, and its sequence
    fails.
    """

    def __init__(
        self, matcher: LLMatcher, in_text: NDArray[np.int32], at_end: NDArray[np.int32]
    ) -> None:
        """matcher: taken over. in_text, at_end: the bits that may be set before the grammar is
        complete, and there."""
        self._matcher = matcher
        self._in_text = in_text
        self._at_end = at_end

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        if not self._matcher.is_error():
            fill_next_token_bitmask(self._matcher, bitmask, row)
        if self._matcher.is_error():
            logger.warning("a grammar cannot go on: %s", self._matcher.stop_reason())
            bitmask[row] = 0
        else:
            bitmask[row] &= self._at_end if self._matcher.is_accepting() else self._in_text


def _words_without(token_ids: Iterable[int], num_tokens: int) -> NDArray[np.int32]:
    bits = np.ones(-(-num_tokens // 32) * 32, dtype=np.uint8)
    bits[sorted(token_ids)] = 0
    return np.packbits(bits, bitorder="little").view(np.int32)


def _reason(matcher: LLMatcher) -> str:
    """One short line. What llguidance says of a fault of its own is no use to a caller."""
    error = matcher.get_error()
    if not error or error.startswith("NoExtension"):
        return "nothing fulfils it"
    if error.startswith("panic"):
        return "it is too complex"
    lines = [line.strip() for line in error.splitlines()]
    # A regex's errors come as a drawing, with the reason at its end.
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (reasons or lines)[0][:_MAX_REASON]
