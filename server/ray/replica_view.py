"""A replica as probes and metrics see it."""

from dataclasses import dataclass

from scoring.engine_client import EngineState, EngineView
from scoring.engine_config import EngineDescription, EngineLimits, EngineStats

from .messages import Report


@dataclass(frozen=True)
class ReplicaView:
    """An EngineView of a replica's last report; None before the first one."""

    name: str
    report: Report | None
    members: tuple[EngineView, ...] = ()
    failure: str | None = None
    loaded_bytes: int = 0
    total_bytes: int = 0

    @property
    def state(self) -> EngineState:
        return EngineState.LOADING if self.report is None else self.report.state

    @property
    def limits(self) -> EngineLimits | None:
        return None if self.report is None else self.report.limits

    @property
    def stats(self) -> EngineStats | None:
        return None if self.report is None else self.report.stats

    @property
    def description(self) -> EngineDescription | None:
        return None if self.report is None else self.report.description

    @property
    def step_age_s(self) -> float:
        return 0.0 if self.report is None else self.report.step_age_s
