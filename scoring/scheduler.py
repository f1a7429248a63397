"""Who runs next, and how many tokens of each.

One step is one flat batch under a token budget: first every running sequence whose next token is
wanted (a decode, one token), then prompts, in the order of their arrival, in chunks that fit what
is left of the budget. While somebody decodes, that is little, a small share for each prompt up to a
few, so that no answer stutters because another user's prompt is long. Pictures have a budget of
their own, in parts of crops: a prompt waits at its picture's slots until all of it is encoded. When
blocks run out, the newest running sequence gives its own back and is computed again later; nothing
is lost but time. A sequence that outgrows the short rope regime gives its blocks back too: all its
keys must be rotated anew.

A step may be scheduled while the one before it still runs: `advance` enters what is known of a step
when it starts, where the next token is but a placeholder, and `update` what came of it. What ends
with the unknown token, by a stop token say, is then computed once in vain.
"""

from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from .block_manager import BlockManager
from .encoder_progress import CROP_PARTS, EncoderJob, EncoderProgress
from .sequence import PENDING, Failure, FinishReason, Logprobs, Sequence, TokenOutput

# One long prompt hardly disturbs those who read their answers; many prompts do not starve.
_MAX_PROMPT_SHARES = 4


@dataclass(frozen=True)
class ScheduledRow:
    """Tokens start … start + num_tokens of a sequence, to be computed in this step; before them,
    parts of its pictures, to be encoded. Either may be nothing."""

    sequence: Sequence
    start: int
    num_tokens: int
    encoder_jobs: tuple[EncoderJob, ...] = ()
    emits: bool = field(init=False)

    def __post_init__(self) -> None:
        """emits: whether the row reaches the sequence's last token, so that a new one is sampled.
        Settled here: by the time that it is sampled, the sequence may be longer."""
        reaches = self.num_tokens > 0 and self.end == len(self.sequence.token_ids)
        object.__setattr__(self, "emits", reaches)

    @property
    def end(self) -> int:
        return self.start + self.num_tokens


@dataclass(frozen=True)
class SampledToken:
    """The sampler's answer for an emitting row. error: why token_id is None, fit for the caller."""

    token_id: int | None
    logprobs: Logprobs | None = None
    error: str = "the model's output was not finite"


class Scheduler:
    """The queue of waiting sequences and the list of running ones. Pure Python."""

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        short_rope_len: int,
        crop_size: int = 336,
        max_crops: int = 34,
        prompt_share: int | None = None,
        crops_share: float | None = None,
    ) -> None:
        """max_model_len: prompt and output tokens together, of one sequence; the blocks must hold
        at least that many. short_rope_len: the longest sequence of the short rope regime.
        max_crops: of pictures, encoded in a step. The shares: prompt tokens and crops, also parts
        of one, that a prompt brings to a step in which somebody decodes; None for no such limit."""
        if blocks.num_blocks * blocks.block_size < max_model_len:
            raise ValueError("the blocks do not hold one sequence of max_model_len tokens")
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")
        self.blocks = blocks
        self.num_preemptions = 0
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_model_len = max_model_len
        self._short_rope_len = short_rope_len
        self._max_crop_parts = max_crops * CROP_PARTS
        self._prompt_share = prompt_share or max_num_batched_tokens
        self._crop_parts_share = max(1, int((crops_share or max_crops) * CROP_PARTS))
        self._encoder = EncoderProgress(crop_size)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget the sequence: it is over. Its complete blocks stay cached. Unknown sequences are
        ignored."""
        self.blocks.release(sequence)
        sequence.is_over = True
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def schedule(self) -> list[ScheduledRow]:
        """The rows of the next step, decodes first. Empty only when there is no work, or none but
        what the step under way will end."""
        for sequence in self._running:
            self._cross_to_long_rope(sequence)
        budget = _Budget(self._max_num_batched_tokens, self._max_crop_parts)
        rows: list[ScheduledRow] = []
        for sequence in [s for s in self._running if _num_missing(s) == 1]:
            if self._will_end(sequence):
                continue
            # Making room for an earlier one may have sent this one back to the queue.
            if sequence in self._running and self._make_room(sequence, 1, rows):
                rows.append(ScheduledRow(sequence, sequence.num_computed, 1))
                budget.tokens -= 1
        prompts = [s for s in self._running if _num_missing(s) > 1 and not self._will_end(s)]
        if rows:
            shares = min(len(prompts) + len(self._waiting), _MAX_PROMPT_SHARES)
            budget.limit(self._prompt_share * shares, self._crop_parts_share * shares)
        for sequence in prompts:
            if sequence in self._running and not budget.is_spent:
                row = self._next_part(sequence, budget)
                if self._make_room(sequence, row.num_tokens, rows):
                    rows += self._enter(row, budget)
        return rows + self._admit(budget)

    def advance(self, rows: Items[ScheduledRow]) -> None:
        """The step of these rows is under way: the next may be scheduled after it."""
        for row in rows:
            if not row.sequence.is_over:
                row.sequence.num_computed = row.end
                if row.emits:
                    row.sequence.token_ids.append(PENDING)

    def update(
        self, rows: Items[ScheduledRow], sampled: Items[SampledToken | None]
    ) -> list[TokenOutput]:
        """Enter the results of a step that has advanced: sampled[i] belongs to rows[i], None where
        it emits nothing. What has ended since is passed over."""
        outputs = []
        for row, token in zip(rows, sampled, strict=True):
            sequence = row.sequence
            if sequence.is_over:
                continue
            # No further than its keys go by now: they may have been given back since.
            self.blocks.name_complete_blocks(sequence)
            if token is None:
                continue
            if token.token_id is None:
                del sequence.token_ids[row.end]
                outputs.append(self.fail(sequence, token.error))
                continue
            sequence.token_ids[row.end] = token.token_id
            reason = self._finish_reason(sequence, token.token_id)
            is_first = row.end == sequence.num_prompt_tokens
            outputs.append(
                TokenOutput(
                    sequence.id,
                    token.token_id,
                    reason,
                    token.logprobs,
                    sequence.num_cached or 0,
                    begun=sequence.begun if is_first else None,
                    encoded=sequence.encoded if is_first else None,
                )
            )
            if reason:
                self.abort(sequence)
        return outputs

    def fail(self, sequence: Sequence, error: str, failure: Failure = Failure.MODEL) -> TokenOutput:
        """End one sequence with an error; the others go on. Its keys may be as broken as its
        output, so none of its blocks is reused."""
        self.blocks.forget(sequence)
        for span in sequence.images:
            self._encoder.forget(span.picture)
        self.abort(sequence)
        return TokenOutput(sequence.id, None, FinishReason.ERROR, error=error, failure=failure)

    def _next_part(self, sequence: Sequence, budget: "_Budget") -> ScheduledRow:
        """What of a prompt fits the budget: tokens up to the first picture that will not be all
        encoded in this step, and parts of that picture."""
        start = sequence.num_computed
        end = start + min(_num_missing(sequence), budget.tokens)
        jobs: dict[bytes, EncoderJob] = {}
        parts_left = budget.crop_parts
        for span in sequence.images:
            picture = span.picture
            if span.end <= start or self._encoder.is_done(picture) or picture.digest in jobs:
                continue
            job = self._encoder.next_job(picture, parts_left)
            if job is not None:
                jobs[picture.digest] = job
                parts_left -= job.end - job.first
            if job is None or job.end < job.num_parts:
                end = min(end, max(start, span.start))
                break
        return ScheduledRow(sequence, start, end - start, tuple(jobs.values()))

    def _enter(self, row: ScheduledRow, budget: "_Budget") -> list[ScheduledRow]:
        """Take the row's part from the budget; no row where it is nothing."""
        budget.tokens -= row.num_tokens
        for job in row.encoder_jobs:
            budget.crop_parts -= job.end - job.first
            self._encoder.enter(job)
        return [row] if row.num_tokens or row.encoder_jobs else []

    def _admit(self, budget: "_Budget") -> list[ScheduledRow]:
        """Start waiting sequences, in order, while budget, seats and blocks last."""
        rows: list[ScheduledRow] = []
        while self._waiting and not budget.is_spent and len(self._running) < self._max_num_seqs:
            sequence = self._waiting[0]
            if self._will_end(sequence):
                break
            self._cross_to_long_rope(sequence)
            self.blocks.take_prefix(sequence)
            # Room for all its tokens must be there, though not yet taken: a prompt started with
            # less would soon have to give way again.
            wanted = self.blocks.num_blocks_for(len(sequence.token_ids))
            if wanted - len(sequence.block_table) > self.blocks.num_available:
                self.blocks.release(sequence)
                break
            if sequence.num_cached is None:  # later on it would find its own blocks
                sequence.num_cached = sequence.num_computed
            self._running.append(self._waiting.popleft())
            row = self._next_part(sequence, budget)
            self.blocks.grow(sequence, row.end)
            rows += self._enter(row, budget)
        return rows

    def _make_room(self, sequence: Sequence, num_tokens: int, rows: Items[ScheduledRow]) -> bool:
        """Get the blocks for the sequence's next tokens, sending back the newest until they are
        there. False if it had to be sent back itself."""
        while not self.blocks.grow(sequence, sequence.num_computed + num_tokens):
            scheduled = {row.sequence.id for row in rows}
            newest = next(s for s in reversed(self._running) if s.id not in scheduled)
            self._preempt(newest)
            if newest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        self.blocks.release(sequence)
        self._running.remove(sequence)
        self._waiting.appendleft(sequence)

    def _cross_to_long_rope(self, sequence: Sequence) -> None:
        is_longer = len(sequence.token_ids) > self._short_rope_len
        if is_longer and not sequence.long_rope and not self._will_end(sequence):
            self.blocks.release(sequence)
            sequence.long_rope = True

    def _finish_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        params = sequence.params
        if token_id in params.end_token_ids and sequence.num_output_tokens > params.min_tokens:
            return FinishReason.STOP
        return FinishReason.LENGTH if self._is_full(sequence) else None

    def _is_full(self, sequence: Sequence) -> bool:
        return (
            sequence.num_output_tokens >= sequence.params.max_tokens
            or len(sequence.token_ids) >= self._max_model_len
        )

    def _will_end(self, sequence: Sequence) -> bool:
        """Whether the step under way gives the sequence its last token, whichever it is."""
        return sequence.is_pending and self._is_full(sequence)


@dataclass
class _Budget:
    """What is left of a step."""

    tokens: int
    crop_parts: int

    @property
    def is_spent(self) -> bool:
        return self.tokens == 0

    def limit(self, tokens: int, crop_parts: int) -> None:
        self.tokens = min(self.tokens, tokens)
        self.crop_parts = min(self.crop_parts, crop_parts)


def _num_missing(sequence: Sequence) -> int:
    """Tokens whose keys are not in the cache."""
    return len(sequence.token_ids) - sequence.num_computed
