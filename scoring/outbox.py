"""What an engine's side has said of one request, for the task that waits for it."""

import asyncio

from .errors import (
    EngineOverloadedError,
    GenerationError,
    NeverFitsError,
    OutOfMemoryError,
    ScoringError,
)
from .sequence import Failure, FinishReason, TokenOutput

_FAILURES: dict[Failure | None, type[ScoringError]] = {
    Failure.MEMORY: OutOfMemoryError,
    Failure.NEVER_FITS: NeverFitsError,
}


class Outbox:
    """Belongs to one event loop. is_finished: the last word has been taken out."""

    def __init__(self) -> None:
        self.is_finished = False
        self._queue: asyncio.Queue[TokenOutput | ScoringError] = asyncio.Queue()

    def put(self, word: TokenOutput | ScoringError) -> None:
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
