"""An engine without a model: the real scheduler and block manager, on a simulated clock.

What is left out is the runner: a step takes as long as StepTimes say of what the scheduler put in
it, and its tokens are those that the trace has as the answer.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from scoring.block_manager import BlockManager
from scoring.encoder_progress import CROP_PARTS
from scoring.picture_encoder import FeatureCache
from scoring.queue_bounds import QueueBounds
from scoring.scheduler import SampledToken, ScheduledRow, Scheduler
from scoring.sequence import ImageSpan, Sequence, TokenOutput

from .step_times import StepShape, StepTimes
from .trace import CROP, LONGEST

_HIDDEN = 3072  # of the genuine model: for the bytes of a picture's features


@dataclass(frozen=True)
class Sizes:
    """Of a replica: the server's defaults. cache_tokens: that its blocks hold."""

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 2048
    max_queued: int = 128
    max_queued_tokens: int = 65536
    max_crops: int = 34
    cache_tokens: int = 65536
    block_size: int = 16
    feature_cache_bytes: int = 512 << 20

    def times(self, fold: int) -> "Sizes":
        """Of a giant with the sizes of so many."""
        return Sizes(
            self.max_num_seqs * fold,
            self.max_num_batched_tokens * fold,
            self.max_queued * fold,
            self.max_queued_tokens * fold,
            self.max_crops * fold,
            self.cache_tokens * fold,
            self.block_size,
            self.feature_cache_bytes * fold,
        )


@dataclass
class _Step:
    rows: list[ScheduledRow]
    seconds: float
    end: float


class SimulatedReplica:
    """fold: of a giant, how many times as fast as the step times say it is. sizes: the giant's.

    While a step is under way, call `advance` when it is due."""

    def __init__(self, times: StepTimes, sizes: Sizes, fold: int = 1) -> None:
        self._times, self._sizes, self._fold = times, sizes, fold
        self.busy_s = 0.0
        self.blocks = BlockManager(sizes.cache_tokens // sizes.block_size, sizes.block_size)
        self._scheduler = Scheduler(
            self.blocks,
            max_num_seqs=sizes.max_num_seqs,
            max_num_batched_tokens=sizes.max_num_batched_tokens,
            max_model_len=LONGEST,
            short_rope_len=LONGEST,
            crop_size=CROP,
            max_crops=sizes.max_crops,
            prompt_share=times.prompt_share * fold,
            crops_share=times.crops_share * fold,
        )
        self._features = FeatureCache(sizes.feature_cache_bytes)
        self._bounds = QueueBounds(sizes.max_queued, sizes.max_queued_tokens)
        self._num_queued_tokens = 0  # of prompts that wait for their first token
        self._open: dict[str, tuple[Sequence, list[int]]] = {}
        self._step: _Step | None = None

    @property
    def num_open(self) -> int:
        return len(self._open)

    @property
    def num_tokens(self) -> int:
        """Of the open requests, prompts and outputs."""
        return sum(len(sequence.token_ids) for sequence, _ in self._open.values())

    @property
    def num_preemptions(self) -> int:
        return self._scheduler.num_preemptions

    @property
    def due(self) -> float | None:
        """When the step that is under way ends."""
        return None if self._step is None else self._step.end

    def submit(self, sequence: Sequence, answer: list[int], now: float) -> None:
        """answer: the tokens that it is going to be given, max_tokens of them. Raises
        EngineOverloadedError where it may not wait."""
        num_tokens = sequence.num_prompt_tokens
        self._bounds.check_num_open(self.num_open, self._sizes.max_num_seqs)
        self._bounds.check_tokens(self._num_queued_tokens, num_tokens, LONGEST)
        self._num_queued_tokens += num_tokens
        self._open[sequence.id] = (sequence, answer)
        self._scheduler.add(sequence)
        if self._step is None:
            self._launch(now)

    def advance(self) -> list[TokenOutput]:
        """End the step, and begin the next."""
        step = self._step
        assert step is not None
        self.busy_s += step.seconds
        outputs = self._scheduler.update(step.rows, [self._sampled(row) for row in step.rows])
        for output in outputs:
            sequence, _ = self._open[output.sequence_id]
            if sequence.num_output_tokens == 1:
                self._num_queued_tokens -= sequence.num_prompt_tokens
            if output.finish_reason is not None:
                del self._open[output.sequence_id]
        self._launch(step.end)
        return outputs

    def _launch(self, now: float) -> None:
        self._step = None
        if rows := self._scheduler.schedule():
            seconds = self._times.seconds(self._shape(rows))
            self._scheduler.advance(rows)
            self._step = _Step(rows, seconds, now + seconds)

    def _sampled(self, row: ScheduledRow) -> SampledToken | None:
        if not row.emits:
            return None
        sequence, answer = self._open[row.sequence.id]
        return SampledToken(answer[sequence.num_output_tokens - 1])

    def _shape(self, rows: Items[ScheduledRow]) -> StepShape:
        """Of a giant: what each of so many machines has of it."""
        tokens = context = pairs = parts = crops = 0.0
        for row in rows:
            tokens += row.num_tokens
            if row.num_tokens == 1:
                context += row.start
            else:
                pairs += row.num_tokens * row.start + row.num_tokens * (row.num_tokens + 1) / 2
            for job in row.encoder_jobs:
                parts += job.end - job.first
                if job.end == job.num_parts:
                    self._put_features(job.picture.digest, job.picture.num_tokens)
            for span in row.sequence.images:
                if span.start < row.end and row.start < span.end:
                    crops += self._crops_again(span)
        share = 1 / self._fold
        crops += parts / CROP_PARTS
        return StepShape(tokens * share, context * share, pairs * share, crops * share)

    def _crops_again(self, span: ImageSpan) -> int:
        """Of a picture whose slots are computed while its features have been evicted: all."""
        picture = span.picture
        if self._features.get(picture.digest) is not None:
            return 0
        self._put_features(picture.digest, picture.num_tokens)
        rows, columns = (size // CROP for size in picture.pixels.shape[:2])
        num_crops: int = 1 + rows * columns  # with the global view
        return num_crops

    def _put_features(self, digest: bytes, num_tokens: int) -> None:
        features = torch.empty(num_tokens, _HIDDEN, dtype=torch.bfloat16, device="meta")
        self._features.put(digest, features)
