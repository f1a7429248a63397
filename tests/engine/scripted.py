"""Small real stand-ins for the model, so that the engine runs without weights."""

import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from scoring.block_manager import BlockManager
from scoring.encoder_progress import CROP_PARTS
from scoring.engine import Engine
from scoring.engine_config import EngineLimits
from scoring.grammar_queue import GrammarQueue
from scoring.image_processor import HDPicture
from scoring.picture_encoder import FeatureCache
from scoring.scheduler import SampledToken, ScheduledRow, Scheduler
from scoring.sequence import PENDING, ImageSpan, SamplingParams, Sequence

VOCAB_SIZE = 1000
BLOCK_SIZE = 4


class StepAtOnce:
    """A step that is computed when it is sampled, whole."""

    def __init__(
        self,
        execute: Callable[[Iterable[ScheduledRow]], list[SampledToken | None]],
        rows: Iterable[ScheduledRow],
    ) -> None:
        self._execute, self._rows = execute, rows
        self._tokens: list[SampledToken | None] = []

    def sample(self) -> "StepAtOnce":
        self._tokens = self._execute(self._rows)
        return self

    def collect(self) -> list[SampledToken | None]:
        return self._tokens


class ScriptedRunner:
    """Says the tokens that a test lists.

    tokens: by sequence id, one after the other; None for logits that were not finite. Sequences
    that are not listed, or have said all, say `other`. failing: sequences, by id, whose presence
    makes a step raise. batches: what each successful step computed, as (id, start, end).
    """

    def __init__(
        self, tokens: Mapping[str, Iterable[int | None]] | None = None, *, other: int = 7
    ) -> None:
        self.tokens = {name: list(listed) for name, listed in (tokens or {}).items()}
        self.other = other
        self.failing: dict[str, Exception] = {}
        self.batches: list[list[tuple[str, int, int]]] = []
        self.vocab_size = VOCAB_SIZE
        self.features = FeatureCache(0)
        self.num_pictures_encoded = 0
        self.num_releases = 0

    def release_memory(self) -> None:
        self.num_releases += 1

    def launch(self, rows: Iterable[ScheduledRow]) -> StepAtOnce:
        return StepAtOnce(self.execute, rows)

    def execute(self, rows: Iterable[ScheduledRow]) -> list[SampledToken | None]:
        rows = list(rows)
        for row in rows:
            if row.sequence.id in self.failing:
                raise self.failing[row.sequence.id]
        self.batches.append([(row.sequence.id, row.start, row.end) for row in rows])
        return [SampledToken(self._next(row.sequence)) if row.emits else None for row in rows]

    def _next(self, sequence: Sequence) -> int | None:
        listed = self.tokens.get(sequence.id, [])
        said = sequence.num_output_tokens
        return listed[said] if said < len(listed) else self.other


class PacedRunner(ScriptedRunner):
    """Takes a step only when the test allows one."""

    def __init__(self, tokens: Mapping[str, Iterable[int | None]] | None = None) -> None:
        super().__init__(tokens)
        self._permits = threading.Semaphore(0)

    def allow(self, num_steps: int) -> None:
        self._permits.release(num_steps)

    def execute(self, rows: Iterable[ScheduledRow]) -> list[SampledToken | None]:
        if not self._permits.acquire(timeout=20):
            raise TimeoutError("the test allowed no further step")
        return super().execute(rows)


class ChecksumRunner:
    """A model of arithmetic: the next token is a checksum of all that the cache holds of the
    sequence.

    What a slot of the cache holds depends, as real keys do, on its token, its position, its rope
    regime, its picture, and on all that was in the cache before it. So a block that is shared,
    kept, lost or overwritten wrongly changes what comes out; `expected_output` says what must.

    num_unplanned: how often a picture's slots were computed before all of its crops were encoded;
    the real runner then encodes it whole, whatever the step's budget.
    """

    def __init__(self, block_size: int = BLOCK_SIZE) -> None:
        self.block_size = block_size
        self.failing: set[str] = set()
        self.vocab_size = VOCAB_SIZE
        self.features = FeatureCache(0)
        self.num_pictures_encoded = 0
        self.num_unplanned = 0
        self._cache: dict[int, int] = {}
        self._num_encoded: dict[bytes, int] = {}
        self._sampled: dict[Sequence, int | None] = {}

    def release_memory(self) -> None:
        """Nothing to give back."""

    def launch(self, rows: Iterable[ScheduledRow]) -> "ChecksumStep":
        """Computed at once, as on a device: tokens that nobody has told the host yet are taken from
        the step before."""
        rows = list(rows)
        for row in rows:
            for job in row.encoder_jobs:
                self._num_encoded[job.picture.digest] = job.end
        for row in rows:
            self._count_unplanned(row)
            for position in range(row.start, row.end):
                before = self._cache[self._slot(row.sequence, position - 1)] if position else 0
                token_id = row.sequence.token_ids[position]
                if token_id == PENDING:
                    token_id = self._sampled[row.sequence]
                key = _key(row.sequence, token_id, position, before, row.sequence.long_rope)
                self._cache[self._slot(row.sequence, position)] = key
        # After the writing, as on a device: the culprit's keys are in the cache by then.
        if self.failing & {row.sequence.id for row in rows}:
            raise RuntimeError("a kernel failed")
        return ChecksumStep(self, rows, [self._read(row) if row.emits else None for row in rows])

    def keep(self, rows: Iterable[ScheduledRow], tokens: Iterable[int | None]) -> None:
        """What a step has sampled; the next one may ask for it."""
        self._sampled = {row.sequence: t for row, t in zip(rows, tokens, strict=True) if row.emits}

    def _count_unplanned(self, row: ScheduledRow) -> None:
        for span in row.sequence.images:
            num_encoded = self._num_encoded.get(span.picture.digest, 0)
            num_parts = (1 + span.picture.pixels.shape[1]) * CROP_PARTS
            if span.start < row.end and row.start < span.end and num_encoded < num_parts:
                self.num_unplanned += 1

    def _slot(self, sequence: Sequence, position: int) -> int:
        block = sequence.block_table[position // self.block_size]
        return block * self.block_size + position % self.block_size

    def _read(self, row: ScheduledRow) -> int:
        return _token([self._cache[self._slot(row.sequence, at)] for at in range(row.end)])


class ChecksumStep:
    """Its tokens are chosen when it is sampled. By then the host must know all earlier ones."""

    def __init__(
        self, runner: ChecksumRunner, rows: list[ScheduledRow], tokens: list[int | None]
    ) -> None:
        self._runner, self._rows, self._tokens = runner, rows, tokens

    def sample(self) -> "ChecksumStep":
        assert not any(row.sequence.is_pending for row in self._rows if not row.sequence.is_over)
        self._runner.keep(self._rows, self._tokens)
        return self

    def collect(self) -> list[SampledToken | None]:
        return [None if token is None else SampledToken(token) for token in self._tokens]


def expected_output(sequence: Sequence, short_rope_len: int, max_model_len: int) -> list[int]:
    """What ChecksumRunner says to this sequence if nothing is ever wrong in the cache."""
    alone = Sequence(sequence.id, list(sequence.token_ids), sequence.params, sequence.images)
    while alone.num_output_tokens < alone.params.max_tokens:
        is_long, keys = len(alone.token_ids) > short_rope_len, [0]
        for position in range(len(alone.token_ids)):
            token_id = alone.token_ids[position]
            keys.append(_key(alone, token_id, position, keys[-1], is_long))
        alone.token_ids.append(_token(keys[1:]))
        if alone.token_ids[-1] in alone.params.stop_token_ids:
            break
        if len(alone.token_ids) >= max_model_len:
            break
    return alone.output_ids


def _key(sequence: Sequence, token_id: int, position: int, before: int, long_rope: bool) -> int:
    pictures = [
        span.picture.digest for span in sequence.images if span.start <= position < span.end
    ]
    return zlib.crc32(repr((max(token_id, 0), position, before, long_rope, pictures)).encode())


def _token(keys: list[int]) -> int:
    return zlib.crc32(repr(keys).encode()) % VOCAB_SIZE


def make_sequence(
    sequence_id: str = "a",
    prompt: Iterable[int] = (1, 2, 3),
    *,
    max_tokens: int = 1000,
    stop: Iterable[int] = (),
    pictures: Mapping[int, HDPicture] | None = None,
    salt: bytes = b"",
) -> Sequence:
    """pictures: by the index of their first slot."""
    return Sequence(
        sequence_id,
        list(prompt),
        SamplingParams(max_tokens=max_tokens, stop_token_ids=frozenset(stop)),
        tuple(ImageSpan(picture, start) for start, picture in (pictures or {}).items()),
        salt,
    )


def make_picture(name: str, num_tokens: int, num_crops: int = 2) -> HDPicture:
    """num_crops: the global view is one of them."""
    pixels = np.zeros((1, num_crops - 1, 3), dtype=np.uint8)
    return HDPicture(pixels, name.encode(), num_tokens)


def make_scheduler(
    *,
    num_blocks: int = 16,
    block_size: int = BLOCK_SIZE,
    max_num_seqs: int = 4,
    max_num_batched_tokens: int = 32,
    max_model_len: int | None = None,
    short_rope_len: int = 1000,
    prefix_cache: bool = True,
    **options: int | None,
) -> Scheduler:
    """options: the scheduler's other limits. A crop is a pixel: see make_picture."""
    return Scheduler(
        BlockManager(num_blocks, block_size, prefix_cache=prefix_cache),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len or num_blocks * block_size,
        short_rope_len=short_rope_len,
        crop_size=1,
        **options,
    )


def make_engine(
    runner: ScriptedRunner | ChecksumRunner,
    scheduler: Scheduler | None = None,
    *,
    overlap: bool = False,
) -> Engine:
    scheduler = scheduler or make_scheduler()
    max_model_len = scheduler.blocks.num_blocks * scheduler.blocks.block_size
    limits = EngineLimits(max_model_len, runner.vocab_size)
    grammars = GrammarQueue(Path("not", "read"), limits.vocab_size)
    return Engine(runner, scheduler, limits, grammars, overlap=overlap)


def assert_accounted(blocks: BlockManager, sequences: Iterable[Sequence]) -> None:
    """Every block is free, cached, or in the tables of these sequences."""
    in_use = {block for sequence in sequences for block in sequence.block_table}
    assert blocks.num_free + blocks.num_cached + len(in_use) == blocks.num_blocks


def assert_idle(scheduler: Scheduler) -> None:
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)
    assert_accounted(scheduler.blocks, [])
