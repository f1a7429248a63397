"""A whole measurement: every load in turn, with its warm-up and rounds, and what is known of it."""

import gc
import itertools
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from .answer import Answer
from .client import Client
from .endpoint import Endpoint
from .limits import DeviceRates, ModelSize, OfLimit, of_limit
from .loops import Stop, Talk
from .summary import Percentiles, Slo, Summary, summarize
from .workload import Workload

_OPEN_LOOP_WARM_UP = 4


class UnusableEndpointError(Exception):
    """Every request of the first warm-up failed. The message says how."""


@dataclass(frozen=True)
class Load:
    """loop: closed, with value callers; or open, with value arrivals per second on average."""

    loop: Literal["closed", "open"]
    value: float

    def __str__(self) -> str:
        if self.loop == "open":
            return f"{self.value:g} arrivals/s"
        return "1 caller" if self.value == 1 else f"{self.value:g} callers"


@dataclass(frozen=True)
class Plan:
    """What is to be measured. warm_up: requests before each load that are not counted; None for one
    per caller, four in an open loop."""

    endpoint: Endpoint
    workload: Workload
    loads: tuple[Load, ...]
    stop: Stop
    rounds: int
    warm_up: int | None
    timeout_s: float
    slo: Slo | None
    size: ModelSize | None
    rates: DeviceRates


@dataclass(frozen=True)
class Round:
    """One run of one load. max_running: most requests at a time. cpu_share: the load generator's
    processor time over the clock's; lag_ms: how late its event loop was."""

    summary: Summary
    of_limit: OfLimit
    max_running: int
    cpu_share: float
    lag_ms: Percentiles

    def to_json(self) -> dict[str, Any]:
        whole = asdict(self)
        return {**whole.pop("summary"), **whole}


@dataclass
class Level:
    load: Load
    rounds: list[Round] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.load), "rounds": [found.to_json() for found in self.rounds]}


class Progress(Protocol):
    """Who watches the run."""

    def begin(self, title: str, stop: Stop) -> None: ...

    def on_answer(self, answer: Answer) -> None: ...

    def end(self, summary: Summary | None) -> None: ...


class Run:
    """levels grow as they are measured, so an interrupted run still has those that are done.
    model: what the server calls itself in its answers."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.levels: list[Level] = []
        self.model: str | None = None
        self._plan = plan
        self._progress = progress
        self._numbers = itertools.count()  # no conversation is asked twice

    async def measure(self) -> None:
        """Raises UnusableEndpointError where nothing works from the start."""
        client = Client(self._plan.endpoint, self._plan.timeout_s)
        try:
            for load in self._plan.loads:
                await self._warm_up(client, load)
                level = Level(load)
                for number in range(1, self._plan.rounds + 1):
                    of_rounds = f", round {number}" if self._plan.rounds > 1 else ""
                    self._progress.begin(f"{load}{of_rounds}", self._plan.stop)
                    level.rounds.append(await self._measure_round(client, load, number))
                    self._progress.end(level.rounds[-1].summary)
                    if level not in self.levels:
                        self.levels.append(level)
        finally:
            client.close()

    async def _warm_up(self, client: Client, load: Load) -> None:
        num_callers = int(load.value) if load.loop == "closed" else _OPEN_LOOP_WARM_UP
        num_requests = num_callers if self._plan.warm_up is None else self._plan.warm_up
        if not num_requests:
            return
        self._progress.begin(f"{load}, warm-up", Stop(num_requests))
        talk = Talk(client, self._plan.workload, self._numbers, self._progress.on_answer)
        await talk.closed_loop(min(num_callers, num_requests), Stop(num_requests))
        self._progress.end(None)
        if not self.levels and all(answer.error for answer in talk.answers):
            answer = talk.answers[0]
            raise UnusableEndpointError(
                f"{self._plan.endpoint.url}: {answer.error}: {answer.detail}"
            )

    async def _measure_round(self, client: Client, load: Load, number: int) -> Round:
        plan = self._plan
        gc.collect()  # not in the midst of it
        talk = Talk(client, plan.workload, self._numbers, self._progress.on_answer)
        if load.loop == "closed":
            await talk.closed_loop(int(load.value), plan.stop)
        else:
            await talk.open_loop(load.value, plan.stop, number)
        named = (answer.model for answer in talk.answers if answer.model)
        self.model = self.model or next(named, None)
        summary = summarize(talk.answers, plan.slo)
        return Round(
            summary,
            of_limit(talk.answers, summary, plan.size, plan.rates),
            talk.max_running,
            talk.overhead.cpu_s / talk.overhead.wall_s,
            Percentiles.of([lag * 1e3 for lag in talk.overhead.lags_s]),
        )
