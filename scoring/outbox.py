"""What an engine's side has said of each request, for the task that waits for it."""

import asyncio

from .errors import (
    EngineNotReadyError,
    EngineOverloadedError,
    GenerationError,
    InvalidSequenceError,
    NeverFitsError,
    OutOfMemoryError,
    ScoringError,
)
from .sequence import Failure, FinishReason, Sequence, TokenOutput

_FAILURES: dict[Failure | None, type[ScoringError]] = {
    Failure.MEMORY: OutOfMemoryError,
    Failure.NEVER_FITS: NeverFitsError,
}


class Outbox:
    """Of one request, in one event loop. is_finished: the last word has been taken out.
    num_queued_tokens: of the prompt, until the first word has come."""

    def __init__(self, num_prompt_tokens: int) -> None:
        self.is_finished = False
        self.num_queued_tokens = num_prompt_tokens
        self._num_heard = 0
        self._speaker: str | None = None
        self._queue: asyncio.Queue[TokenOutput | ScoringError] = asyncio.Queue()

    @property
    def is_silent(self) -> bool:
        """Nothing has been said yet, nor taken out."""
        return self._num_heard == 0

    def put(
        self,
        word: TokenOutput | ScoringError,
        speaker: str | None = None,
        number: int | None = None,
    ) -> None:
        """speaker: whose word it is, where several may have been sent the request: only the first
        that spoke is heard, for each has an answer of its own. number: of its outputs, where they
        may be lost on their way: the request fails rather than go on without one."""
        if speaker is not None:
            self._speaker = self._speaker or speaker
            if speaker != self._speaker:
                return
        if number is not None and number != self._num_heard:
            word = EngineNotReadyError("a part of the answer was lost on its way, try again")
        self._num_heard += 1
        self.num_queued_tokens = 0
        self._queue.put_nowait(word)

    async def take(self) -> TokenOutput:
        """The next output; not once it is finished. Raises the error that came instead."""
        word = await self._queue.get()
        self.is_finished = isinstance(word, ScoringError) or word.finish_reason is not None
        if isinstance(word, ScoringError):
            raise word
        if word.finish_reason is FinishReason.ABORT:
            raise EngineOverloadedError("the request waited too long for its turn")
        if word.finish_reason is FinishReason.ERROR:
            raise _FAILURES.get(word.failure, GenerationError)(word.error)
        return word


class Outboxes:
    """Of the requests that are running or waiting at an engine."""

    def __init__(self) -> None:
        self._open: dict[str, Outbox] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def num_queued_tokens(self) -> int:
        """Of prompts that wait for the first token of their answers."""
        return sum(outbox.num_queued_tokens for outbox in self._open.values())

    def open(self, sequence: Sequence) -> Outbox:
        """Raises InvalidSequenceError if its id is another's."""
        if sequence.id in self._open:
            raise InvalidSequenceError(f"a sequence with the id {sequence.id} is running")
        outbox = self._open[sequence.id] = Outbox(sequence.num_prompt_tokens)
        return outbox

    def close(self, sequence_id: str) -> None:
        del self._open[sequence_id]

    def put(
        self,
        sequence_id: str,
        word: TokenOutput | ScoringError,
        speaker: str | None = None,
        number: int | None = None,
    ) -> None:
        """Nothing, if whoever waited has left. speaker, number: see Outbox.put."""
        outbox = self._open.get(sequence_id)
        if outbox is not None:
            outbox.put(word, speaker, number)

    def fail(self, error: ScoringError) -> None:
        """All of them."""
        for outbox in self._open.values():
            outbox.put(error)
