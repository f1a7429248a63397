"""What the API's side and the engine's loop say to each other, and what carries it between them.

Calls go to the loop (a Sequence to run, Abort, Stop), messages come back: Progress …, Ready, one
Outputs per step, Ended. A link is the API's end of the connection and a channel the loop's; there
are two pairs, one for a thread (thread_link.py) and one for a process (process_link.py,
engine_process.py). Both keep the order of what is sent.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from .engine_config import EngineConfig, EngineDescription, EngineLimits, EngineStats
from .errors import ScoringError
from .sequence import Sequence, TokenOutput

if TYPE_CHECKING:
    from .engine import Engine

ReportProgress = Callable[[int, int], None]
BuildEngine = Callable[[EngineConfig, ReportProgress], "Engine"]


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """End a sequence without a word. Unknown ids are ignored."""

    sequence_id: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End the loop after its current step."""


Call = Sequence | Abort | Stop


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far loading is, in bytes."""

    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine is built and takes sequences."""

    limits: EngineLimits
    stats: EngineStats
    description: EngineDescription | None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A sequence that the engine's door did not let in. kind: the class of the error, by name."""

    sequence_id: str
    kind: str
    message: str


class Outputs(msgspec.Struct, frozen=True, tag="outputs"):
    """All that one step has to say, to everybody."""

    outputs: list[TokenOutput]
    stats: EngineStats


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The last message. failure: a sentence for the operator; None if it was asked to stop."""

    failure: str | None


Message = Progress | Ready | Refused | Outputs | Ended
Receive = Callable[[Message], None]


class EngineLink(Protocol):
    """The API's end. Belongs to one event loop, in which it calls `receive` with each message."""

    def start(self) -> None:
        """Begin to build the engine, there."""

    def send(self, call: Call) -> None:
        """Hand over a call; never waits. Does nothing once the loop has ended."""

    async def stop(self, *, is_loading: bool) -> None:
        """Send Stop and wait until nothing is left of the other side."""


class EngineChannel(Protocol):
    """The loop's end. Belongs to the loop's thread."""

    def next_call(self, *, wait: bool) -> Call | None:
        """The next call; if there is none, wait for one, or return None at once."""

    def tell(self, message: Message) -> None:
        """Send a message; never waits."""


def to_refused(sequence_id: str, error: ScoringError) -> Refused:
    return Refused(sequence_id, type(error).__name__, str(error))


def to_error(refused: Refused) -> ScoringError:
    """The error that the engine's door raised: its class and its message."""
    kind = _kinds(ScoringError)[refused.kind]
    # Past the class's own __init__, which may compose the message from other arguments.
    error: ScoringError = kind.__new__(kind, refused.message)
    return error


def _kinds(base: type[ScoringError]) -> dict[str, type[ScoringError]]:
    """A class and its subclasses by name."""
    kinds = {base.__name__: base}
    for subclass in base.__subclasses__():
        kinds |= _kinds(subclass)
    return kinds
