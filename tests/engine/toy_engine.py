"""An engine of a few lines, for the tests of what lies around one. It imports no torch, so that a
process with it starts at once. What builds it is named in a link as "tests.engine.toy_engine:…".

It counts: a sequence's tokens are 0, 1, 2, …, but for one with pictures, whose first tokens are the
checksums of their pixels. Prompts that begin with 13 bring it down.
"""

import logging
import os
import time
import zlib
from collections.abc import Callable

from scoring.engine_config import EngineConfig, EngineLimits, EngineStats
from scoring.errors import CheckpointError, ContextLengthError, InvalidSequenceError
from scoring.sequence import FinishReason, Sequence, TokenOutput

NAME = "tests.engine.toy_engine:"
LIMITS = EngineLimits(max_model_len=1_000_000, vocab_size=1000)
BAD_LUCK = 13
STEP_S = 0.002

Progress = Callable[[int, int], None]


class ToyEngine:
    description = None

    def __init__(self, step_s: float, limits: EngineLimits = LIMITS) -> None:
        self.limits = limits
        self._step_s = step_s
        self._sequences: dict[str, Sequence] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, sequence: Sequence) -> None:
        if not sequence.token_ids:
            raise InvalidSequenceError("the prompt is empty")
        if len(sequence.token_ids) >= self.limits.max_model_len:
            raise ContextLengthError(len(sequence.token_ids), self.limits.max_model_len)
        self._sequences[sequence.id] = sequence

    def abort(self, sequence_id: str) -> None:
        self._sequences.pop(sequence_id, None)

    def step(self) -> list[TokenOutput]:
        time.sleep(self._step_s)
        return [self._next(sequence) for sequence in list(self._sequences.values())]

    def stats(self) -> EngineStats:
        num_running = len(self._sequences)
        return EngineStats(num_running, 0, 0, 10, 10 - num_running, 0, 0, 0)

    def _next(self, sequence: Sequence) -> TokenOutput:
        if sequence.token_ids[0] == BAD_LUCK:
            raise RuntimeError("secret detail")
        position = sequence.num_output_tokens
        checksums = [zlib.crc32(span.picture.pixels) for span in sequence.images]
        has_more = position < len(checksums)
        sequence.token_ids.append(checksums[position] if has_more else position)
        if sequence.num_output_tokens < sequence.params.max_tokens:
            return TokenOutput(sequence.id, sequence.token_ids[-1])
        del self._sequences[sequence.id]
        return TokenOutput(sequence.id, sequence.token_ids[-1], FinishReason.LENGTH)


def build(config: EngineConfig, report: Progress) -> ToyEngine:
    report(50, 100)
    report(100, 100)
    logging.getLogger(__name__).info("the toy is built")
    return ToyEngine(STEP_S)


def build_with_endless_steps(config: EngineConfig, report: Progress) -> ToyEngine:
    return ToyEngine(step_s=600.0)


def build_for_ever(config: EngineConfig, report: Progress) -> ToyEngine:
    report(30, 100)
    time.sleep(600.0)
    raise AssertionError("nobody ended it")


def build_what_is_broken(config: EngineConfig, report: Progress) -> ToyEngine:
    raise CheckpointError("1 missing: model.norm.weight")


def build_by_mistake(config: EngineConfig, report: Progress) -> ToyEngine:
    raise KeyError("secret detail")


def leave_without_a_word(config: EngineConfig, report: Progress) -> ToyEngine:
    report(30, 100)
    os._exit(0)


def build_the_second_broken(config: EngineConfig, report: Progress) -> ToyEngine:
    """The others of a group take for ever."""
    is_second = config.data_parallel_rank == 1
    return build_what_is_broken(config, report) if is_second else build_for_ever(config, report)


def build_unequal(config: EngineConfig, report: Progress) -> ToyEngine:
    """A group's engines have different limits."""
    return ToyEngine(STEP_S, EngineLimits(1000 - config.data_parallel_rank, LIMITS.vocab_size))
