"""The seam: asyncio on this side, the engine's loop on the other.

Calls go over one by one, a step's outputs come back together. The loop, which also loads the
weights, runs in a process of its own or in a thread; either way the event loop answers probes from
the first second on and waits for nothing.
"""

import asyncio
import time
from collections.abc import AsyncGenerator

from .engine_client import EngineState, check_state
from .engine_config import EngineConfig, EngineDescription, EngineLimits, EngineStats
from .engine_link import (
    Abort,
    BuildEngine,
    Ended,
    EngineLink,
    Message,
    Outputs,
    Progress,
    Ready,
    Refused,
    to_error,
)
from .engine_loop import BUILD_ENGINE
from .errors import EngineDeadError, EngineNotReadyError, ScoringError
from .outbox import Outboxes
from .process_link import ProcessLink
from .queue_bounds import QueueBounds
from .sequence import Sequence, TokenOutput
from .thread_link import ThreadLink


class AsyncEngine:
    """One engine for many asyncio tasks, an EngineClient."""

    members = ()

    def __init__(
        self,
        config: EngineConfig,
        *,
        max_queued: int,
        max_queued_tokens: int | None = None,
        own_process: bool = False,
        build: BuildEngine | str = BUILD_ENGINE,
    ) -> None:
        """max_queued, max_queued_tokens: see QueueBounds; config.max_num_seqs requests can run.
        own_process: the loop runs in a process of its own, else in a thread of this one.
        build: what makes the engine there: the "module:name" of a function, or, for a thread, the
        function; the real one unless a test gives its own."""
        self.name = str(config.data_parallel_rank)
        self.state = EngineState.LOADING
        self.failure: str | None = None
        self.limits: EngineLimits | None = None
        self.loaded_bytes, self.total_bytes = 0, 0
        self.stats: EngineStats | None = None
        self.description: EngineDescription | None = None
        self.stopped = asyncio.Event()
        self._max_num_seqs = config.max_num_seqs
        self._bounds = QueueBounds(max_queued, max_queued_tokens)
        self._outboxes = Outboxes()
        self._last_sign = time.monotonic()  # of the loop at work, or of work for an idle one
        self._link: EngineLink
        if not own_process:
            self._link = ThreadLink(config, build, self._receive)
        elif isinstance(build, str):
            self._link = ProcessLink(config, build, self._receive)
        else:
            raise TypeError("build: a function does not go to another process; give its name")

    def start(self) -> None:
        """Begin loading. `state`, `loaded_bytes` and `total_bytes` tell how far it is."""
        self._link.start()

    async def stop(self) -> None:
        """End the loop after its current step. Open requests fail. Waits for the loop's end,
        except for a thread that loads weights: it cannot be interrupted, and dies with us."""
        await self._link.stop(is_loading=self.state is EngineState.LOADING)

    @property
    def num_open(self) -> int:
        """Requests that are running or waiting."""
        return len(self._outboxes)

    @property
    def num_queued_tokens(self) -> int:
        """Of prompts that wait for the first token of their answers."""
        return self._outboxes.num_queued_tokens

    @property
    def step_age_s(self) -> float:
        """Seconds since it last made a step, or got work to do; 0 while there is none."""
        return time.monotonic() - self._last_sign if self._outboxes else 0.0

    def check_ready(self) -> EngineLimits:
        """What the engine can take. Raises EngineNotReadyError or EngineDeadError."""
        return check_state(self.state, self.limits)

    def check_room(self, num_prompt_tokens: int = 0) -> None:
        """Raises EngineOverloadedError when no further request, or none of so many tokens, may
        wait."""
        self._bounds.check_num_open(self.num_open, self._max_num_seqs)
        longest = self.check_ready().max_model_len
        self._bounds.check_tokens(self.num_queued_tokens, num_prompt_tokens, longest)

    async def generate(self, sequence: Sequence) -> AsyncGenerator[TokenOutput, None]:
        """The sequence's tokens as they come; the last one carries a finish reason.

        Close the iterator to abort: its blocks are free within a step. Raises what check_ready
        and check_room raise, InvalidSequenceError, GenerationError and OutOfMemoryError.
        """
        self.check_ready()
        self.check_room(sequence.num_prompt_tokens)
        if not self._outboxes:
            self._last_sign = time.monotonic()
        outbox = self._outboxes.open(sequence)
        try:
            self._link.send(sequence)
            while not outbox.is_finished:
                yield await outbox.take()
        finally:
            self._outboxes.close(sequence.id)
            if not outbox.is_finished:
                self._link.send(Abort(sequence.id))

    def _receive(self, message: Message) -> None:
        """Called in the event loop with all that the engine's loop says, in order."""
        match message:
            case Outputs(outputs, stats):
                self.stats, self._last_sign = stats, time.monotonic()
                for output in outputs:
                    self._outboxes.put(output.sequence_id, output)
            case Refused(sequence_id):
                self._outboxes.put(sequence_id, to_error(message))
            case Progress(done, total):
                self.loaded_bytes, self.total_bytes = done, total
            case Ready(limits, stats, description):
                self.limits, self.stats, self.description = limits, stats, description
                self.state = EngineState.READY
            case Ended(failure):
                self._end(failure)

    def _end(self, failure: str | None) -> None:
        """The loop has ended: fail what is open and wake who waits for the end."""
        if failure is None:
            self.state = EngineState.STOPPED
        elif self.state is EngineState.LOADING:
            self.state = EngineState.FAILED
        else:
            self.state = EngineState.DEAD
        self.failure = failure
        error: ScoringError = EngineDeadError("the engine stopped")
        if failure is None:
            error = EngineNotReadyError("the server is going down")
        self._outboxes.fail(error)
        self.stopped.set()
