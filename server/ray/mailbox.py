"""What an engine's replica has to say to one ingress, until it is read."""

import asyncio
import time

from scoring.engine_link import Refused
from scoring.sequence import TokenOutput

from .messages import Batch, encode


class Mailbox:
    """What one ingress has not been sent yet."""

    def __init__(self) -> None:
        self.num_readers = 0
        self.num_open = 0
        self._words: list[TokenOutput | Refused] = []
        self._filled = asyncio.Event()

    def put(self, word: TokenOutput | Refused) -> None:
        self._words.append(word)
        self._filled.set()

    async def take(self, idle_s: float) -> bytes | None:
        """Wait for something → all that is there; None if there is nothing for so long, and nothing
        open. What one step says comes in one turn of the event loop, and is taken in the next."""
        while not self._words:
            try:
                async with asyncio.timeout(idle_s):
                    await self._filled.wait()
            except TimeoutError:
                if not self.num_open:
                    return None
        return self._encode(self._words)

    def take_of(self, sequence_id: str) -> bytes | None:
        """What is there of one sequence."""
        mine = [word for word in self._words if word.sequence_id == sequence_id]
        others = [word for word in self._words if word.sequence_id != sequence_id]
        data = self._encode(mine) if mine else None
        self._words = others
        if others:
            self._filled.set()
        return data

    def _encode(self, words: list[TokenOutput | Refused]) -> bytes:
        outputs = [word for word in words if isinstance(word, TokenOutput)]
        errors = [word for word in words if isinstance(word, Refused)]
        self._words = []
        self._filled.clear()
        return encode(Batch(time.monotonic(), outputs, errors))
