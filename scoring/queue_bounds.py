"""How much work may wait; what is beyond is refused at once, and better tried again later."""

from dataclasses import dataclass

from .errors import EngineOverloadedError

_QUEUED_TOKENS = 65536


@dataclass(frozen=True)
class QueueBounds:
    """max_queued: requests that may wait for a place. max_queued_tokens: prompt tokens that may
    wait for the first token of their answers; one prompt always may. None: four times the longest
    sequence, and at least _QUEUED_TOKENS."""

    max_queued: int
    max_queued_tokens: int | None = None

    def check_num_open(self, num_open: int, num_places: int) -> None:
        """Raises EngineOverloadedError when no request may join the num_open, of which num_places
        can run."""
        if num_open >= num_places + self.max_queued:
            raise EngineOverloadedError(
                f"{num_open} requests are running or waiting, the most allowed"
            )

    def check_tokens(self, num_queued: int, num_more: int, longest: int) -> None:
        """Raises EngineOverloadedError when a prompt of num_more tokens may not wait beside the
        num_queued. longest: sequence, in tokens."""
        limit = self.max_queued_tokens or max(4 * longest, _QUEUED_TOKENS)
        if num_queued and num_queued + num_more > limit:
            raise EngineOverloadedError(
                f"prompts of {num_queued} tokens are waiting, and this one has {num_more}; "
                f"{limit} may wait together"
            )
