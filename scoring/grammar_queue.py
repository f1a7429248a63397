"""Sequences that wait for their grammars to be compiled, beside the engine's thread.

What comes here has been compiled before by grammar_process.py, within its limits, so it takes no
longer here. Each sequence gets a matcher of its own. Copies of one that is kept would be cheaper,
but they share their lexer, its memory and its limits: what one of them runs into, all do.
"""

import logging
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path

from .errors import GrammarError
from .grammar import Grammar
from .grammar_mask import GrammarMask, GrammarTokenizer
from .sequence import Sequence

logger = logging.getLogger(__name__)

# One model has one set of tokens that end a text.
_MAX_TOKENIZERS = 2
_WAIT_S = 0.005


class GrammarQueue:
    """Belongs to the engine's thread; has one of its own, from the first grammar on."""

    def __init__(self, tokenizer: Path, vocab_size: int) -> None:
        """tokenizer: a tokenizer.json, read when the first grammar comes. vocab_size: the logits'
        width."""
        self._path = tokenizer
        self._vocab_size = vocab_size
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._waiting: dict[str, tuple[Sequence, Future[GrammarMask]]] = {}
        self._tokenizer = lru_cache(_MAX_TOKENIZERS)(self._load_tokenizer)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Begin with a sequence that has a grammar."""
        assert sequence.grammar is not None
        ends = sequence.params.eos_token_ids
        future = self._thread.submit(self._make_mask, sequence.grammar, ends)
        self._waiting[sequence.id] = (sequence, future)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence. Unknown ones are ignored."""
        _, future = self._waiting.pop(sequence.id, (None, None))
        if future is not None:
            future.cancel()

    def take(self) -> list[tuple[Sequence, str | None]]:
        """Those that wait no longer: with their token_mask, or with the reason why they have
        none."""
        done = [pair for pair in self._waiting.values() if pair[1].done()]
        for sequence, _ in done:
            del self._waiting[sequence.id]
        return [(sequence, _finish(sequence, future)) for sequence, future in done]

    def wait(self) -> None:
        """A few milliseconds at most, until there is something to take; not at all if nobody
        waits."""
        if self._waiting:
            wait([future for _, future in self._waiting.values()], _WAIT_S, FIRST_COMPLETED)

    def _make_mask(self, grammar: Grammar, ends: frozenset[int]) -> GrammarMask:
        return self._tokenizer(ends).compile(grammar)

    def _load_tokenizer(self, ends: frozenset[int]) -> GrammarTokenizer:
        return GrammarTokenizer(self._path, ends, self._vocab_size)


def _finish(sequence: Sequence, future: Future[GrammarMask]) -> str | None:
    try:
        sequence.token_mask = future.result()
    except GrammarError as error:
        return str(error)
    except Exception:  # whatever it is, it is this sequence's alone
        logger.exception("a grammar could not be compiled")
        return "it could not be compiled"
    return None
