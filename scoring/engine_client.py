"""What the API needs of an engine, in whatever way it runs; its routes know nothing else of one."""

from collections.abc import AsyncGenerator
from collections.abc import Sequence as Items
from enum import StrEnum
from typing import Protocol

from .engine_config import EngineDescription, EngineLimits, EngineStats
from .errors import EngineDeadError, EngineNotReadyError
from .sequence import Sequence, TokenOutput


class EngineState(StrEnum):
    """LOADING → READY → STOPPED; FAILED: never got ready; DEAD: its loop ended by an error;
    DEGRADED: of several engines some are dead, the others serve."""

    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    STOPPED = "stopped"
    FAILED = "failed"
    DEAD = "dead"

    @property
    def is_serving(self) -> bool:
        """Whether requests are taken."""
        return self in (EngineState.READY, EngineState.DEGRADED)

    @property
    def is_lost(self) -> bool:
        """Whether only a restart helps."""
        return self in (EngineState.DEAD, EngineState.FAILED)


class EngineView(Protocol):
    """What can be seen of an engine, wherever it runs."""

    @property
    def name(self) -> str:
        """Tells it from others, in metrics and probes."""

    @property
    def members(self) -> "Items[EngineView]":
        """The engines that it consists of; none if it is one by itself."""

    @property
    def state(self) -> EngineState: ...

    @property
    def failure(self) -> str | None:
        """Why it is FAILED, DEAD or DEGRADED, a sentence for the operator."""

    @property
    def limits(self) -> EngineLimits | None:
        """What it can take; None while it loads."""

    @property
    def stats(self) -> EngineStats | None:
        """As of its last step; None while it loads."""

    @property
    def description(self) -> EngineDescription | None:
        """What it runs on; None while it loads."""

    @property
    def step_age_s(self) -> float:
        """Seconds since it last made a step, or got work to do; 0 while there is none."""

    @property
    def loaded_bytes(self) -> int: ...

    @property
    def total_bytes(self) -> int:
        """Of the weights; 0 until it is known."""


class EngineClient(EngineView, Protocol):
    """An engine for many asyncio tasks. Made, started and used in one event loop."""

    @property
    def num_open(self) -> int:
        """Requests that are running or waiting."""

    def start(self) -> None:
        """Begin loading. `state`, `loaded_bytes` and `total_bytes` tell how far it is."""

    async def stop(self) -> None:
        """End it. Open requests fail."""

    def check_ready(self) -> EngineLimits:
        """What the engine can take. Raises EngineNotReadyError or EngineDeadError."""

    def check_room(self, num_prompt_tokens: int = 0) -> None:
        """Raises EngineOverloadedError when no further request, or none of so many tokens, may
        wait."""

    def generate(self, sequence: Sequence) -> AsyncGenerator[TokenOutput, None]:
        """The sequence's tokens as they come; the last one carries a finish reason.

        Close the iterator to abort: its blocks are free within a step. Raises what check_ready
        and check_room raise, InvalidSequenceError, GenerationError and OutOfMemoryError.
        """


def check_state(state: EngineState, limits: EngineLimits | None) -> EngineLimits:
    """The limits of an engine that takes requests. Raises EngineNotReadyError or
    EngineDeadError."""
    if state.is_lost:
        raise EngineDeadError("the engine is not running")
    if limits is None or not state.is_serving:
        raise EngineNotReadyError(f"the engine is {state}; try again later")
    return limits


def is_stalled(engine: EngineView, stall_s: float | None) -> bool:
    """Whether it has work and makes no step, for stall_s; None: a minute, on a CPU ten."""
    if stall_s is None:
        is_cpu = engine.description is not None and engine.description.device == "cpu"
        stall_s = 600.0 if is_cpu else 60.0
    return engine.step_age_s > stall_s
