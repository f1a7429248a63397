"""Measurements, what was hoped of them, and the table that sets one beside the other."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One quantity over the rounds. goal: None where there is none; at_least: whether more is
    better. A goal is judged by the median."""

    section: str
    name: str
    values: list[float]
    unit: str
    goal: float | None = None
    at_least: bool = True

    @property
    def is_met(self) -> bool | None:
        if self.goal is None:
            return None
        middle = median(self.values)
        return middle >= self.goal if self.at_least else middle <= self.goal

    @property
    def verdict(self) -> str:
        return {True: "met", False: "NOT MET", None: ""}[self.is_met]


@dataclass
class Report:
    """Everything measured, in the order of measuring."""

    measurements: list[Measurement] = field(default_factory=list)

    def add(self, measurement: Measurement) -> None:
        self.measurements.append(measurement)

    def print_goals(self) -> None:
        """The measurements that have a goal."""
        rows = [m for m in self.measurements if m.goal is not None]
        width = max((len(f"{m.section}: {m.name}") for m in rows), default=0)
        print(f"\n{'goal':{width}} {'':>9} {'median':>9} {'min – max':>19}")
        for m in rows:
            goal = f"{'≥' if m.at_least else '≤'} {m.goal:g} {m.unit}"
            print(
                f"{f'{m.section}: {m.name}':{width}} {goal:>9} {median(m.values):9.2f} "
                f"{f'{min(m.values):.2f} – {max(m.values):.2f}':>19}  {m.verdict}"
            )

    def to_json(self) -> list[dict[str, Any]]:
        return [
            asdict(m) | {"median": median(m.values), "is_met": m.is_met} for m in self.measurements
        ]


def spread(values: list[float], digits: int = 1) -> str:
    """The median with its extremes: 3.1 (2.9–3.4)."""
    middle, low, high = (f"{f(values):.{digits}f}" for f in (median, min, max))
    return f"{middle} ({low}–{high})"
