"""The engine: add, abort, and step = schedule → execute → update. Synchronous, knows no threads."""

import logging
import time
import traceback
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from .device_memory import DeviceMemory
from .engine_config import EngineDescription, EngineLimits, EngineStats
from .errors import ContextLengthError, InvalidSequenceError
from .grammar_queue import GrammarQueue
from .memory_plan import MemoryPlan
from .scheduler import ScheduledRow, Scheduler
from .sequence import Failure, FinishReason, Sequence, TokenOutput
from .step import Runner, SampledStep
from .step_errors import StepError, kind_of

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class _UnderWay:
    """The step under way, and its rows."""

    rows: Items[ScheduledRow]
    step: SampledStep


_SAID = {
    Failure.MODEL: "the model failed on this request",
    Failure.MEMORY: "there was not enough memory for this request beside the others",
    Failure.NEVER_FITS: "this request needs more memory than the server has",
}


class Engine:
    """Runs sequences together, a token each per step. Belongs to one thread.

    Where the device computes while the host goes on, steps overlap: the next one is scheduled and
    launched before the tokens of the one under way are known. It takes them on the device.

        host     schedule, launch n+1 │ wait for n's tokens, enter them │ sample n+1 │ schedule …
        device   … n ─────────────────┴───────│ n+1 ────────────────────────────────────────│ …
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        limits: EngineLimits,
        grammars: GrammarQueue,
        *,
        overlap: bool = False,
    ) -> None:
        """overlap: launch a step before the last one's tokens are known."""
        self._runner = runner
        self._scheduler = scheduler
        self._grammars = grammars
        self._overlap = overlap
        self._under_way: _UnderWay | None = None
        self._sequences: dict[str, Sequence] = {}
        self._num_leaked_blocks = 0
        self.limits = limits
        # Set by build_engine.
        self.memory_plan: MemoryPlan | None = None
        self.description: EngineDescription | None = None
        self.device_memory: DeviceMemory | None = None  # of a GPU

    @property
    def has_work(self) -> bool:
        return bool(self._sequences) or self._under_way is not None

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises InvalidSequenceError for one that must not reach the device:
        whoever calls has checked before, but a bad id here would take everybody's context."""
        check_sequence(sequence, self.limits)
        if sequence.id in self._sequences:
            raise InvalidSequenceError(f"a sequence with the id {sequence.id} is running")
        self._sequences[sequence.id] = sequence
        if sequence.grammar is None:
            self._scheduler.add(sequence)
        else:
            self._grammars.add(sequence)

    def abort(self, sequence_id: str) -> None:
        """End a sequence without a word and free its blocks. Unknown ids are ignored."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None:
            self._drop(sequence)

    def step(self) -> list[TokenOutput]:
        """Launch a step over everything that can run → what is known by now: one output per
        sequence, as a rule."""
        outputs = self._expire() + self._admit_compiled()
        rows = self._scheduler.schedule()
        _mark_begun(rows)
        outputs += self._advance(rows) if rows else self._collect()
        if not rows and not outputs:
            self._grammars.wait()  # for what the next step can run
        if not self._overlap:
            outputs += self._collect()
        for output in outputs:
            if output.finish_reason is not None:
                self._sequences.pop(output.sequence_id, None)
        if not self.has_work:
            self._check_blocks()
        return outputs

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes. Only between requests."""
        self._scheduler.blocks.reset()

    def stats(self) -> EngineStats:
        blocks = self._scheduler.blocks
        used, total = (0, 0) if self.device_memory is None else self.device_memory.read()
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting + len(self._grammars),
            num_preemptions=self._scheduler.num_preemptions,
            num_blocks=blocks.num_blocks,
            num_blocks_free=blocks.num_free,
            num_blocks_cached=blocks.num_cached,
            num_pictures_encoded=self._runner.num_pictures_encoded,
            feature_cache_bytes=self._runner.features.num_bytes,
            num_blocks_leaked=self._num_leaked_blocks,
            device_memory_used=used,
            device_memory_total=total,
        )

    def _collect(self) -> list[TokenOutput]:
        """Enter the tokens of the step under way, if there is one."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return []
        return self._enter(under_way.rows, under_way.step)

    def _enter(self, rows: Items[ScheduledRow], step: SampledStep) -> list[TokenOutput]:
        sampled, now = step.collect(), time.monotonic()
        for row in rows:
            if row.encoder_jobs:
                row.sequence.encoded = now
        return self._scheduler.update(rows, sampled)

    def _advance(self, rows: Items[ScheduledRow]) -> list[TokenOutput]:
        """Put these rows' step under way, and enter the tokens of the one before."""
        launched = self._attempt(rows, lambda: self._runner.launch(rows))
        outputs = self._collect()
        sampled = (
            launched if isinstance(launched, StepError) else self._attempt(rows, launched.sample)
        )
        del launched  # what it holds goes before others need the memory
        if isinstance(sampled, StepError):
            return outputs + self._one_by_one(rows, sampled)
        self._scheduler.advance(rows)
        self._under_way = _UnderWay(rows, sampled)
        return outputs

    def _attempt(self, rows: Items[ScheduledRow], action: Callable[[], T]) -> T | StepError:
        """What the action returns, or what went wrong. Its exception, whose frames hold tensors, is
        gone when this returns, and so is the memory that can be given back. A device error is no
        row's fault, and every later call on the device would fail too: it is raised on."""
        ids = ", ".join(row.sequence.id for row in rows)
        try:
            return action()
        except Exception as error:
            kind = kind_of(error)
            if kind is StepError.DEVICE:
                raise
            # As text: a log record with the exception in it would keep the tensors of its frames.
            if kind is StepError.MEMORY:
                first_line = str(error).partition("\n")[0]
                logger.error("executing %s took too much memory: %s", ids, first_line)
            else:
                logger.error("executing %s failed\n%s", ids, traceback.format_exc())
        self._runner.release_memory()
        return kind

    def _one_by_one(self, rows: Items[ScheduledRow], kind: StepError) -> list[TokenOutput]:
        """After a failed step: run its rows singly, so that only the culprit fails. Writing the
        same keys twice is harmless. A single row gets a second chance where memory was given back.
        kind: what went wrong."""
        if len(rows) > 1:
            logger.warning("a step of %d rows failed; running them singly", len(rows))
        outputs = []
        for row in rows:
            if row.sequence.is_over:
                continue  # with the step before
            again = len(rows) > 1 or kind is StepError.MEMORY
            step = self._run_alone(row) if again else kind
            if isinstance(step, StepError):
                outputs.append(self._fail(row.sequence, step))
            else:
                self._scheduler.advance([row])
                outputs += self._enter([row], step)
        return outputs

    def _run_alone(self, row: ScheduledRow) -> SampledStep | StepError:
        launched = self._attempt([row], lambda: self._runner.launch([row]))
        return (
            launched if isinstance(launched, StepError) else self._attempt([row], launched.sample)
        )

    def _fail(self, sequence: Sequence, kind: StepError) -> TokenOutput:
        """A sequence whose row failed by itself. Where nobody else ran, there was all the memory
        that there will ever be."""
        failure = Failure.MODEL
        if kind is StepError.MEMORY:
            is_alone = self._scheduler.num_running == 1
            failure = Failure.NEVER_FITS if is_alone else Failure.MEMORY
        return self._scheduler.fail(sequence, _SAID[failure], failure)

    def _expire(self) -> list[TokenOutput]:
        """End the sequences whose time is up, with what they have, and those that have waited too
        long to be begun."""
        now = time.monotonic()
        outputs = []
        for sequence in self._sequences.values():
            if _is_before(sequence.deadline, now):
                outputs.append(TokenOutput(sequence.id, None, FinishReason.LENGTH))
            elif sequence.num_cached is None and _is_before(sequence.queue_deadline, now):
                outputs.append(TokenOutput(sequence.id, None, FinishReason.ABORT))
        for output in outputs:
            self._drop(self._sequences[output.sequence_id])
        return outputs

    def _drop(self, sequence: Sequence) -> None:
        self._grammars.remove(sequence)
        self._scheduler.abort(sequence)

    def _admit_compiled(self) -> list[TokenOutput]:
        """Queue the sequences whose grammars are ready; outputs for those that will never be."""
        failed = []
        for sequence, error in self._grammars.take():
            if error is None:
                self._scheduler.add(sequence)
            else:
                failed.append(self._scheduler.fail(sequence, f"its grammar: {error}"))
        return failed

    def _check_blocks(self) -> None:
        """With nobody there, every block must be free or cached. One that is not is our bug, worth
        a line in the log, but no reason to stop serving with the others."""
        blocks = self._scheduler.blocks
        leaked = blocks.num_blocks - blocks.num_free - blocks.num_cached
        if leaked != self._num_leaked_blocks:
            self._num_leaked_blocks = leaked
            logger.error("%d of %d cache blocks are lost", leaked, blocks.num_blocks)


def _mark_begun(rows: Items[ScheduledRow]) -> None:
    now = time.monotonic()
    for row in rows:
        if row.sequence.begun is None:
            row.sequence.begun = now


def _is_before(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline < now


def check_sequence(sequence: Sequence, limits: EngineLimits) -> None:
    """Raise InvalidSequenceError unless the engine can run the sequence.

    Ids must lie in 0 … vocab_size, save for the slots of image i, which hold -(i + 1).
    """
    if not sequence.token_ids:
        raise InvalidSequenceError("the prompt is empty")
    if len(sequence.token_ids) >= limits.max_model_len:
        raise ContextLengthError(len(sequence.token_ids), limits.max_model_len)
    sequence.params.check(limits.vocab_size)
    sequence.check_grammar()
    allowed = limits.vocab_size
    position = 0
    for number, span in zip(count(1), sequence.images, strict=False):
        slots = set(sequence.token_ids[span.start : span.end])
        if span.start < position or span.end > len(sequence.token_ids) or slots != {-number}:
            raise InvalidSequenceError(f"image {number} does not match its slots in the prompt")
        _check_ids(sequence.token_ids[position : span.start], allowed)
        position = span.end
    _check_ids(sequence.token_ids[position:], allowed)


def _check_ids(token_ids: list[int], vocab_size: int) -> None:
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        raise InvalidSequenceError(f"a token id lies outside 0 … {vocab_size - 1}")
