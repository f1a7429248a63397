"""Several engines that are served as one: data parallelism on one machine.

Each has a process and a device of its own, and all weights. A request runs on one of them, which
the router chooses. One that dies takes along the requests that it has; the others serve on.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import astuple, replace

from .async_engine import AsyncEngine
from .engine_client import EngineState, check_state
from .engine_config import EngineConfig, EngineDescription, EngineLimits, EngineStats
from .engine_loop import BUILD_ENGINE
from .errors import EngineDeadError, EngineNotReadyError
from .queue_bounds import QueueBounds
from .router import Router
from .sequence import Sequence, TokenOutput

logger = logging.getLogger(__name__)


class EngineGroup:
    """config.data_parallel engines, together an EngineClient."""

    name = "all"

    def __init__(
        self,
        config: EngineConfig,
        *,
        max_queued: int,
        max_queued_tokens: int | None = None,
        build: str = BUILD_ENGINE,
    ) -> None:
        """config: of each engine, but for its rank. max_queued, max_queued_tokens: of all together,
        see QueueBounds. build: the "module:name" of what makes an engine in its process."""
        num_engines = config.data_parallel
        self.members = tuple(
            AsyncEngine(
                replace(config, data_parallel_rank=rank),
                # So that no engine's own bound is reached before the group's.
                max_queued=max_queued + (num_engines - 1) * config.max_num_seqs,
                max_queued_tokens=max_queued_tokens,
                own_process=True,
                build=build,
            )
            for rank in range(num_engines)
        )
        self._max_num_seqs = config.max_num_seqs
        self._bounds = QueueBounds(max_queued, max_queued_tokens)
        self._router = Router(num_engines)
        self._loads = [0] * num_engines  # tokens of the open requests, prompts and outputs
        self._watchers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin loading, all at once."""
        for rank, engine in enumerate(self.members):
            engine.start()
            self._watchers.append(asyncio.create_task(self._watch(rank, engine)))

    async def stop(self) -> None:
        """End all of them at once. Open requests fail."""
        await asyncio.gather(*(engine.stop() for engine in self.members))

    @property
    def state(self) -> EngineState:
        """LOADING until all are loaded, FAILED if one cannot be; DEAD only if all are."""
        states = {engine.state for engine in self.members}
        for state in (EngineState.FAILED, EngineState.STOPPED, EngineState.LOADING):
            if state in states:
                return state
        if EngineState.READY not in states:
            return EngineState.DEAD
        return EngineState.DEGRADED if EngineState.DEAD in states else EngineState.READY

    @property
    def failure(self) -> str | None:
        """The first of its engines' that has one."""
        return next((e.failure for e in self.members if e.failure is not None), None)

    @property
    def limits(self) -> EngineLimits | None:
        """What each of its engines can take."""
        limits = [engine.limits for engine in self.members if engine.limits is not None]
        if len(limits) < len(self.members):
            return None
        return EngineLimits(
            max_model_len=min(one.max_model_len for one in limits),
            vocab_size=min(one.vocab_size for one in limits),
        )

    @property
    def stats(self) -> EngineStats | None:
        """The sums over the engines that serve; None where none does."""
        return sum_stats(
            e.stats for e in self.members if e.state.is_serving and e.stats is not None
        )

    @property
    def description(self) -> EngineDescription | None:
        """They are alike."""
        return self.members[0].description

    @property
    def step_age_s(self) -> float:
        """Of the engine that has been silent longest: what it has will only go on after a
        restart."""
        return max(engine.step_age_s for engine in self.members)

    @property
    def loaded_bytes(self) -> int:
        return sum(engine.loaded_bytes for engine in self.members)

    @property
    def total_bytes(self) -> int:
        """All read the same weights, though some may not have said yet how much that is."""
        return len(self.members) * max(engine.total_bytes for engine in self.members)

    @property
    def num_open(self) -> int:
        """Requests that are running or waiting, wherever."""
        return sum(engine.num_open for engine in self.members)

    def check_ready(self) -> EngineLimits:
        """What every engine can take. Raises EngineNotReadyError or EngineDeadError."""
        return check_state(self.state, self.limits)

    def check_room(self, num_prompt_tokens: int = 0) -> None:
        """Raises EngineOverloadedError when no further request, or none of so many tokens, may
        wait."""
        num_serving = sum(engine.state.is_serving for engine in self.members)
        self._bounds.check_num_open(self.num_open, num_serving * self._max_num_seqs)
        num_queued = sum(engine.num_queued_tokens for engine in self.members)
        longest = self.check_ready().max_model_len
        self._bounds.check_tokens(num_queued, num_prompt_tokens, longest)

    async def generate(self, sequence: Sequence) -> AsyncGenerator[TokenOutput, None]:
        """As AsyncEngine.generate, on the engine that suits best. If that one dies while others
        serve, EngineNotReadyError: another try would be answered."""
        self.check_ready()
        self.check_room(sequence.num_prompt_tokens)
        rank = self._router.route(
            sequence,
            [
                load if engine.state.is_serving else None
                for load, engine in zip(self._loads, self.members, strict=True)
            ],
        )
        num_tokens = sequence.num_prompt_tokens
        self._loads[rank] += num_tokens
        try:
            async with aclosing(self.members[rank].generate(sequence)) as outputs:
                async for output in outputs:
                    num_tokens += 1
                    self._loads[rank] += 1
                    yield output
        except EngineDeadError:
            if self.state.is_serving:
                raise EngineNotReadyError(
                    "the engine that ran this request stopped; others serve, try again"
                ) from None
            raise
        finally:
            self._loads[rank] -= num_tokens

    async def _watch(self, rank: int, engine: AsyncEngine) -> None:
        """Say which engine died: its link, which says how, does not know that there are others."""
        await engine.stopped.wait()
        if engine.state is EngineState.DEAD:
            num_serving = sum(engine.state.is_serving for engine in self.members)
            logger.error("engine %d is dead; %d of %d serve", rank, num_serving, len(self.members))


def sum_stats(stats: Iterable[EngineStats]) -> EngineStats | None:
    """None of nothing."""
    columns = list(zip(*map(astuple, stats), strict=True))
    return EngineStats(*map(sum, columns)) if columns else None
