"""An engine without a model: the scheduler's rules over the real block manager, simulated.

Steps are not made one by one. The next step is put together as scoring/scheduler.py would; while
nobody comes, begins to answer or ends, the steps after it are the same but for longer contexts, so
that many are gone over at once. A test holds this to the real scheduler, step for step.

It differs from the real one where memory is short: the blocks of an answer are taken when it
begins, all of them, and named when it ends.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from scoring.block_manager import BlockManager
from scoring.encoder_progress import CROP_PARTS, EncoderJob, EncoderProgress
from scoring.queue_bounds import QueueBounds
from scoring.sequence import Sequence

from .step_times import StepShape, StepTimes

_CROP = 336
_MAX_PROMPT_SHARES = 4  # as in scoring/scheduler.py


@dataclass(frozen=True)
class Sizes:
    """Of a replica: the server's defaults. cache_tokens: that its blocks hold. feature_tokens: of
    pictures whose features are kept, 512 MiB of the genuine model's."""

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 2048
    max_queued: int = 128
    max_crops: int = 34
    cache_tokens: int = 65536
    block_size: int = 64
    feature_tokens: int = 87381

    def times(self, fold: int) -> "Sizes":
        """Of a giant with the sizes of so many."""
        return Sizes(
            self.max_num_seqs * fold,
            self.max_num_batched_tokens * fold,
            self.max_queued * fold,
            self.max_crops * fold,
            self.cache_tokens * fold,
            self.block_size,
            self.feature_tokens * fold,
        )


@dataclass(eq=False)
class Request:
    """answer: the tokens it is going to say. on_first, on_end: called with the time. on_token:
    with how many more have been said; None where nobody counts."""

    sequence: Sequence
    answer: list[int]
    on_first: Callable[[float], None]
    on_end: Callable[[float], None]
    on_token: Callable[[int], None] | None = None
    num_said: int = field(default=0, init=False)

    @property
    def is_over(self) -> bool:
        return self.num_said == len(self.answer)

    @property
    def num_missing(self) -> int:
        return len(self.sequence.token_ids) - self.sequence.num_computed

    def say(self, number: int) -> None:
        said = self.answer[self.num_said : self.num_said + number]
        self.sequence.token_ids.extend(said)
        self.num_said += len(said)


@dataclass
class _Part:
    """Of a prompt in a step: so many tokens, and parts of its picture. extra_crops: of a picture
    whose features had been evicted. repeats: steps in a row that can have the same."""

    request: Request
    num_tokens: int
    job: EncoderJob | None
    extra_crops: int
    repeats: int


@dataclass
class _Jump:
    """A run of equal steps. first: seconds of the first, each next one takes slope more."""

    parts: list[_Part]
    start: float
    num_steps: int
    first: float
    slope: float

    def end(self, num_steps: int) -> float:
        return self.start + num_steps * self.first + self.slope * num_steps * (num_steps - 1) / 2

    def cut(self, now: float) -> None:
        """Let it end with the step that is under way now."""
        low, high = 1, self.num_steps
        while low < high:
            middle = (low + high) // 2
            if self.end(middle) >= now:
                high = middle
            else:
                low = middle + 1
        self.num_steps = low


class SimulatedReplica:
    """fold: of a giant, how many times as fast as the step times say it is."""

    def __init__(self, times: StepTimes, sizes: Sizes, fold: int = 1) -> None:
        self._times, self._sizes, self._fold = times, sizes, fold
        self.num_open = 0
        self.num_tokens = 0  # of the open requests, prompts and outputs
        self.num_said = 0
        self.busy_s = 0.0
        self.num_preemptions = 0
        self.blocks = BlockManager(sizes.cache_tokens // sizes.block_size, sizes.block_size)
        self._bounds = QueueBounds(sizes.max_queued)
        self._encoder = EncoderProgress(_CROP)
        self._features: OrderedDict[bytes, int] = OrderedDict()
        self._waiting: deque[Request] = deque()
        self._queued_tokens = 0
        self._running: dict[Request, None] = {}  # in the order of their admission
        self._prompts: list[Request] = []
        # Those that decode: (the step that says the last token, a number, the request).
        self._decoding: list[tuple[int, int, Request]] = []
        self._begun: dict[Request, tuple[int, int]] = {}  # when, and with how many tokens
        self._context = 0  # of those that decode, together
        self._step = 0
        self._jump: _Jump | None = None
        self._numbers = count()

    @property
    def due(self) -> float | None:
        """When to call advance."""
        return None if self._jump is None else self._jump.end(self._jump.num_steps)

    def submit(self, request: Request, now: float) -> None:
        """Raises EngineOverloadedError where it may not wait."""
        self._bounds.check_num_open(self.num_open, self._sizes.max_num_seqs)
        num_tokens = request.sequence.num_prompt_tokens
        self._bounds.check_tokens(self._queued_tokens, num_tokens, self._sizes.cache_tokens)
        self.num_open += 1
        self.num_tokens += num_tokens
        self._queued_tokens += num_tokens
        self._waiting.append(request)
        if self._jump is None:
            self._begin(now)
        else:
            self._jump.cut(now)

    def advance(self) -> None:
        """Enter what has been computed by now, when it is due, and go on."""
        jump = self._jump
        assert jump is not None
        now = jump.end(jump.num_steps)
        self.busy_s += now - jump.start
        self._enter_answers(jump.num_steps, now)
        for part in jump.parts:
            self._enter_part(part, jump.num_steps, now)
        self._begin(now)

    def lose(self) -> list[Request]:
        """It dies → what was open there."""
        self._jump = None
        return [*self._running, *self._waiting]

    def _begin(self, now: float) -> None:
        parts = self._plan()
        num_decoding = len(self._decoding)
        if not parts and not num_decoding:
            self._jump = None
            return
        limits = [part.repeats for part in parts]
        if self._decoding:
            limits.append(self._decoding[0][0] - self._step)
        pairs = crops = tokens = squares = 0.0
        for part in parts:
            start, number = part.request.sequence.num_computed, part.num_tokens
            tokens += number
            pairs += number * start + number * (number + 1) / 2
            squares += number * number
            crops += part.extra_crops
            if part.job is not None:
                crops += (part.job.end - part.job.first) / CROP_PARTS
        shape = StepShape(
            (tokens + num_decoding) / self._fold,
            self._context / self._fold,
            pairs / self._fold,
            crops / self._fold,
        )
        slope = self._times.per_context * num_decoding + self._times.per_pair * squares
        self._jump = _Jump(parts, now, min(limits), self._times.seconds(shape), slope / self._fold)

    def _plan(self) -> list[_Part]:
        """The next step's prompts, as the scheduler would choose them."""
        # A prompt's last token alone counts as a decode does.
        last = [request for request in self._prompts if request.num_missing == 1]
        queue = [request for request in self._prompts if request.num_missing > 1]
        num_decoding = len(self._decoding) + len(last)
        tokens = self._sizes.max_num_batched_tokens - num_decoding
        parts_left = self._sizes.max_crops * CROP_PARTS
        if num_decoding:
            shares = min(len(queue) + len(self._waiting), _MAX_PROMPT_SHARES * self._fold)
            tokens = min(tokens, self._times.prompt_share * shares)
            parts_left = min(parts_left, self._times.crop_parts_share * shares)
        parts = [_Part(request, 1, None, 0, 1) for request in last]
        parts = [part for part in parts if self._make_room(part.request, part)]
        while tokens > 0:
            if queue:
                request = queue.pop(0)
                if request not in self._running:  # it gave way to one before it
                    continue
            elif (admitted := self._admit()) is not None:
                request = admitted
            else:
                break
            part = self._part(request, tokens, parts_left)
            if not self._make_room(request, part):
                continue
            tokens -= part.num_tokens
            if part.job is not None:
                parts_left -= part.job.end - part.job.first
                self._encoder.enter(part.job)
            if part.num_tokens or part.job is not None:
                parts.append(part)
        digests = [part.job.picture.digest for part in parts if part.job is not None]
        if len(set(digests)) < len(digests):
            for part in parts:
                part.repeats = 1
        return parts

    def _admit(self) -> Request | None:
        if not self._waiting or len(self._running) >= self._sizes.max_num_seqs:
            return None
        sequence = self._waiting[0].sequence
        self.blocks.take_prefix(sequence)
        wanted = self.blocks.num_blocks_for(len(sequence.token_ids)) - len(sequence.block_table)
        if wanted > self.blocks.num_available:
            self.blocks.release(sequence)
            return None
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
        request = self._waiting.popleft()
        self._running[request] = None
        self._prompts.append(request)
        return request

    def _part(self, request: Request, tokens: int, parts_left: int) -> _Part:
        """See the scheduler's _next_part."""
        sequence = request.sequence
        start = sequence.num_computed
        stop, job, extra = start + request.num_missing, None, 0
        repeats = 1 << 30
        for span in sequence.images:
            picture = span.picture
            if span.end <= start:
                continue
            if not self._encoder.is_done(picture):
                job = self._encoder.next_job(picture, parts_left)
                if job is None or job.end < job.num_parts:
                    stop = max(start, span.start)
                if job is not None:
                    repeats = max(1, (job.num_parts - job.first - 1) // (job.end - job.first))
            elif start + min(tokens, stop - start) > span.start:
                extra = self._missing_features(picture.digest, picture.num_tokens)
                extra *= self._num_crops(picture.pixels.shape)
        number = min(tokens, stop - start)
        if number:
            repeats = min(repeats, (stop - start) // number)
        if extra or (job is not None and job.end == job.num_parts):
            repeats = 1
        return _Part(request, number, job, extra, repeats)

    def _num_crops(self, shape: tuple[int, ...]) -> int:
        return 1 + (shape[0] // _CROP) * (shape[1] // _CROP)

    def _missing_features(self, digest: bytes, num_tokens: int) -> int:
        """1 where they must be computed once more; they are there from now on."""
        missing = int(digest not in self._features)
        self._features[digest] = num_tokens
        self._features.move_to_end(digest)
        while sum(self._features.values()) > self._sizes.feature_tokens and len(self._features) > 1:
            self._features.popitem(last=False)
        return missing

    def _make_room(self, request: Request, part: _Part) -> bool:
        """For all steps with that part, or else for one. False if it had to give way itself."""
        sequence = request.sequence
        if self.blocks.grow(sequence, sequence.num_computed + part.repeats * part.num_tokens):
            return True
        part.repeats = 1
        return self._grow(request, sequence.num_computed + part.num_tokens)

    def _grow(self, request: Request, num_tokens: int) -> bool:
        while not self.blocks.grow(request.sequence, num_tokens):
            newest = next(reversed(self._running))
            self._preempt(newest)
            if newest is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self.num_preemptions += 1
        if request in self._begun:
            self._stop_decoding(request)
        else:
            self._prompts.remove(request)
        del self._running[request]
        self.blocks.release(request.sequence)
        self._waiting.appendleft(request)

    def _stop_decoding(self, request: Request) -> None:
        """What it has said is its own from now on."""
        step, length = self._begun.pop(request)
        self._context -= length + self._step - step
        self._decoding = [entry for entry in self._decoding if entry[2] is not request]
        heapq.heapify(self._decoding)
        request.say(self._step - step)

    def _enter_answers(self, num_steps: int, now: float) -> None:
        self._step += num_steps
        num_said = num_steps * len(self._decoding)
        self._context += num_said
        self.num_said += num_said
        self.num_tokens += num_said
        for _, _, request in self._decoding:
            if request.on_token is not None:
                request.on_token(num_steps)
        while self._decoding and self._decoding[0][0] == self._step:
            request = heapq.heappop(self._decoding)[2]
            step, length = self._begun.pop(request)
            self._context -= length + self._step - step
            request.say(self._step - step)
            self._end(request, now)

    def _enter_part(self, part: _Part, num_steps: int, now: float) -> None:
        request, sequence, job = part.request, part.request.sequence, part.job
        if job is not None:
            end = job.first + (job.end - job.first) * num_steps
            self._encoder.enter(EncoderJob(job.picture, job.first, end, job.num_parts))
            if end == job.num_parts:
                self._missing_features(job.picture.digest, job.picture.num_tokens)
        if request not in self._running:  # it gave way to another of this step
            return
        sequence.num_computed += part.num_tokens * num_steps
        self.blocks.name_complete_blocks(sequence)
        if request.num_missing or not part.num_tokens:
            return
        self._prompts.remove(request)
        if not request.num_said:
            self._queued_tokens -= sequence.num_prompt_tokens
            request.on_first(now)
        length = len(sequence.token_ids)
        request.say(1)
        self.num_said += 1
        self.num_tokens += 1
        if request.on_token is not None:
            request.on_token(1)
        if request.is_over:
            self._end(request, now)
            return
        left = len(request.answer) - request.num_said
        heapq.heappush(self._decoding, (self._step + left, next(self._numbers), request))
        self._begun[request] = (self._step, length)
        self._context += length
        self._grow(request, length + left)

    def _end(self, request: Request, now: float) -> None:
        sequence = request.sequence
        sequence.num_computed = len(sequence.token_ids) - 1
        self.blocks.name_complete_blocks(sequence)
        self.blocks.release(sequence)
        self._running.pop(request)
        self.num_open -= 1
        self.num_tokens -= len(sequence.token_ids)
        request.on_end(now)
