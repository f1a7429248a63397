"""What is known of one request: when it reached which stage, and what came of it.

Metrics, the log line, the `server-timing` header and traces are all made of this.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scoring.sequence import FinishReason, TokenOutput

from .errors import error_answer

if TYPE_CHECKING:
    from .completion import Completion

CLIENT_LEFT = "client_left"


@dataclass
class RequestRecord:
    """Times are on time.monotonic's clock, None where the request did not come so far.

    arrived: its head is read. validated: its parameters are judged, and its grammar is compiled.
    prepared: its pictures are fetched and decoded, its prompt is tokenized. begun: its first step
    is scheduled. encoded: its pictures are, where they were not known. on_gap: called with the
    seconds between two tokens. traceparent: of the request's span, where there are traces.
    """

    on_gap: Callable[[float], None] = lambda _: None
    arrived: float = field(default_factory=time.monotonic)
    validated: float | None = None
    prepared: float | None = None
    begun: float | None = None
    encoded: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    completion: "Completion | None" = None
    finish_reason: FinishReason | None = None
    abort_reason: str | None = None
    traceparent: str | None = None

    def saw(self, output: TokenOutput) -> None:
        """An output has come out of the engine."""
        if output.token_id is None:
            return
        now = time.monotonic()
        if self.last_token is None:
            self.first_token, self.begun, self.encoded = now, output.begun, output.encoded
        else:
            self.on_gap(now - self.last_token)
        self.last_token = now

    def broke(self, error: BaseException) -> None:
        """It ends here, unless it had ended already: the client left, or an error's code says
        why."""
        if self.finish_reason is not None:
            return
        if isinstance(error, GeneratorExit | asyncio.CancelledError):
            self.abort_reason = CLIENT_LEFT
        elif isinstance(error, Exception):
            self.abort_reason = error_answer(error)[1]["code"]

    def stages(self) -> dict[str, tuple[float, float]]:
        """The stages that are over, in order, each with its start and its end."""
        has_pictures = self.completion is not None and self.completion.num_images > 0
        marks = (
            ("validate", self.validated),
            ("decode_images" if has_pictures else "tokenize", self.prepared),
            ("queue", self.begun),
            ("encode_images", self.encoded),
            ("prefill", self.first_token),
            ("decode", self.last_token),
        )
        stages, start = {}, self.arrived
        for name, end in marks:
            if end is not None:
                stages[name] = (start, end)
                start = end
        return stages

    def milliseconds(self) -> dict[str, float]:
        """How long each stage took."""
        return {
            name: round((end - start) * 1000, 2) for name, (start, end) in self.stages().items()
        }
