"""What the engine asks of the device, step by step: launch, sample, collect."""

from collections.abc import Sequence as Items
from typing import Protocol

from .picture_encoder import FeatureCache
from .scheduler import SampledToken, ScheduledRow


class SampledStep(Protocol):
    """A step whose tokens have been chosen, or will have been by the time that they are needed."""

    def collect(self) -> list[SampledToken | None]:
        """Wait for the tokens: one for each row that emits, None for the others. Once."""


class LaunchedStep(Protocol):
    """A step whose logits are on their way."""

    def sample(self) -> SampledStep:
        """Have the tokens chosen, on the device. The host knows every earlier token by now: none in
        the sequences is PENDING. Once."""


class Runner(Protocol):
    """Computes steps, in the order of their launches."""

    vocab_size: int
    features: FeatureCache

    @property
    def num_pictures_encoded(self) -> int: ...

    def launch(self, rows: Items[ScheduledRow]) -> LaunchedStep:
        """Begin a step, and wait for nothing. The step before may be under way still, if it has
        sampled: a token that is PENDING is taken from there, on the device."""

    def release_memory(self) -> None:
        """After a failed step, an out-of-memory error say: give back what can be given back."""
