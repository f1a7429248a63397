"""What an engine's replica has to say to one ingress, until it is read."""

import asyncio
import time
from collections.abc import AsyncGenerator

from scoring.engine_link import Refused
from scoring.sequence import TokenOutput

from .messages import Batch, encode


class Mailbox:
    """What one ingress has not been sent yet. num_open: its sequences that may still say something.

    The newest reader gets it. An older one's stream has broken, though nobody may have told it:
    what it took would be lost.
    """

    def __init__(self) -> None:
        self.num_open = 0
        self._reader: object | None = None
        self._words: list[tuple[TokenOutput | Refused, int]] = []
        self._filled = asyncio.Event()

    def put(self, word: TokenOutput | Refused, number: int = 0) -> None:
        """number: of an output within its sequence."""
        self._words.append((word, number))
        self._filled.set()

    @property
    def is_read(self) -> bool:
        return self._reader is not None

    @property
    def is_idle(self) -> bool:
        """Nobody reads it or writes to it; it may hold words for a reader that comes again."""
        return not self.num_open and not self.is_read

    @property
    def is_empty(self) -> bool:
        return not self._words

    async def batches(self, idle_s: float) -> AsyncGenerator[bytes, None]:
        """All that is there, as often as something is. It ends once there is nothing for so long,
        and nothing open, or when there is a newer reader. What one step says comes in one turn of
        the event loop, and is taken in the next."""
        reader = self._reader = object()
        try:
            while (words := await self._take(reader, idle_s)) is not None:
                yield words
        finally:
            if self._reader is reader:
                self._reader = None

    async def _take(self, reader: object, idle_s: float) -> bytes | None:
        while self._reader is reader and not self._words:
            try:
                async with asyncio.timeout(idle_s):
                    await self._filled.wait()
            except TimeoutError:
                if not self.num_open and not self._words:
                    return None
        return self._encode(self._words) if self._reader is reader else None

    def take_of(self, sequence_id: str) -> bytes | None:
        """What is there of one sequence."""
        mine = [entry for entry in self._words if entry[0].sequence_id == sequence_id]
        others = [entry for entry in self._words if entry[0].sequence_id != sequence_id]
        data = self._encode(mine) if mine else None
        self._words = others
        if others:
            self._filled.set()
        return data

    def _encode(self, words: list[tuple[TokenOutput | Refused, int]]) -> bytes:
        outputs = [word for word, _ in words if isinstance(word, TokenOutput)]
        numbers = [number for word, number in words if isinstance(word, TokenOutput)]
        errors = [word for word, _ in words if isinstance(word, Refused)]
        self._words = []
        self._filled.clear()
        return encode(Batch(time.monotonic(), outputs, numbers, errors))
