"""What stands between an answer and whoever reads it slowly: deltas that are not read yet are one.

The engine does not wait for a client. So a stream goes on being taken from it while its last event
is still being sent, and what has come by then goes out as one event.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .completion import Delta
from .errors import TimedOutError

MAX_UNREAD_BYTES = 1 << 20
# Of one token or alternative in JSON, roughly.
_LOGPROB_BYTES = 80


class _Unread:
    """What has come since somebody last took it."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        self._num_bytes = 0
        self.has_news = asyncio.Event()

    def add(self, delta: Delta) -> None:
        """Raises TimedOutError for more than may wait."""
        self._deltas.append(delta)
        alternatives = sum(1 + len(token["top_logprobs"]) for token in delta.logprobs or ())
        self._num_bytes += len(delta.text) + _LOGPROB_BYTES * alternatives
        self.has_news.set()
        if self._num_bytes > MAX_UNREAD_BYTES:
            raise TimedOutError(
                f"the answer was read too slowly: {MAX_UNREAD_BYTES >> 20} MiB of it waited"
            )

    def take(self) -> Delta | None:
        """All of it as one delta."""
        deltas, self._deltas, self._num_bytes = self._deltas, [], 0
        self.has_news.clear()
        if len(deltas) < 2:
            return deltas[0] if deltas else None
        logprobs = [token for delta in deltas for token in delta.logprobs or ()]
        text = "".join(delta.text for delta in deltas)
        return Delta(text, logprobs or None, deltas[-1].finish_reason)


async def merge_unread(deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """The deltas as they come; those that come while nobody asks, as one.

    Closes deltas however it ends. Raises what they raise, and TimedOutError where more than
    MAX_UNREAD_BYTES wait; either way after what came before.
    """
    unread = _Unread()

    async def read() -> None:
        async with aclosing(deltas):
            async for delta in deltas:
                unread.add(delta)
                await asyncio.sleep(0)  # who is ready for it gets it by itself

    reading = asyncio.create_task(read())
    reading.add_done_callback(lambda _: unread.has_news.set())
    try:
        while not reading.done():
            await unread.has_news.wait()
            if (delta := unread.take()) is not None:
                yield delta
        if (delta := unread.take()) is not None:
            yield delta
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
