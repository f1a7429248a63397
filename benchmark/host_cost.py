"""What a step costs besides the forward: scheduling, building the batch, sampling, entering it.

The parts are timed where they are called, in real steps; what is not on the list shows as "rest".
Planning the attention belongs to the host's work too, though it is called inside the forward.
Sending a step's outputs to another thread or process is not in it: the engine is stepped here.
The whole is given by the clock and by this thread's CPU time, which other programs disturb less.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from torch import nn

import scoring.model_runner
from scoring.engine import Engine

from .decode import decode_steps
from .report import Measurement, Report, spread

_SECTION = "host"
_ROWS_AND_GOALS = ((16, 1.0), (64, 3.0))
_PROMPT, _STEPS = 64, 32
_PARTS = ("schedule", "build", "plan", "sample", "update")


class Stopwatch:
    """Adds up the time spent in functions that it wraps where they are looked up: by the clock,
    and of this thread's processor."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: Any, attribute: str, part: str) -> None:
        """Time owner.attribute as the part. Nothing happens where there is no such attribute."""
        function = getattr(owner, attribute, None)
        if function is None:
            return
        self.wall.setdefault(part, 0.0)
        self.cpu.setdefault(part, 0.0)

        def timed(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.wall[part] += time.perf_counter() - wall
                self.cpu[part] += time.thread_time() - cpu

        own = attribute in vars(owner)
        setattr(owner, attribute, timed)
        self._undo.append(
            lambda: setattr(owner, attribute, function) if own else delattr(owner, attribute)
        )

    def lap(self) -> tuple[dict[str, float], dict[str, float]]:
        """The parts' seconds since the last lap, by the clock and of the processor."""
        lap = dict(self.wall), dict(self.cpu)
        self.wall, self.cpu = (dict.fromkeys(seconds, 0.0) for seconds in lap)
        return lap

    def unwrap(self) -> None:
        while self._undo:
            self._undo.pop()()


@contextmanager
def _watched(engine: Engine) -> Iterator[Stopwatch]:
    """A stopwatch on the parts of the engine's step."""
    watch = Stopwatch()
    inside: Any = engine
    runner = inside._runner
    watch.wrap(engine, "step", "step")
    watch.wrap(inside._scheduler, "schedule", "schedule")
    watch.wrap(inside._scheduler, "update", "update")
    watch.wrap(scoring.model_runner, "to_flat_batch", "build")
    watch.wrap(scoring.model_runner, "select", "sample")
    watch.wrap(runner._attention, "plan", "plan")
    model = next(value for value in vars(runner).values() if isinstance(value, nn.Module))
    for method in ("forward", "embed", "logits", "encode_images"):
        watch.wrap(model, method, "forward")
    try:
        yield watch
    finally:
        watch.unwrap()


def measure_host_cost(report: Report, engine: Engine, rounds: int) -> None:
    print("\nhost cost per decode step in ms, medians")
    parts = "".join(f"{part:>10}" for part in (*_PARTS, "rest"))
    print(f"{'rows':>4} {'all':>20} {'by CPU':>20}{parts}{'forward':>10}")
    for rows, goal in _ROWS_AND_GOALS:
        laps = [_steps(engine, rows, seed) for seed in range(rounds)]
        costs = [median(step["host"] for step in lap) for lap in laps]
        by_cpu = [median(step["host by CPU"] for step in lap) for lap in laps]
        report.add(Measurement(_SECTION, f"{rows} rows", costs, "ms", goal, at_least=False))
        report.add(Measurement(_SECTION, f"{rows} rows, by CPU", by_cpu, "ms", None, False))
        line = f"{rows:4} {spread(costs, 2):>20} {spread(by_cpu, 2):>20}"
        for part in (*_PARTS, "rest", "forward"):
            values = [step[part] for lap in laps for step in lap if part in step]
            line += f"{median(values):10.2f}" if values else f"{'–':>10}"
            if values:
                name = f"{rows} rows, {part}"
                report.add(Measurement(_SECTION, name, [median(values)], "ms", None, False))
        print(line, flush=True)


def _steps(engine: Engine, rows: int, seed: int) -> list[dict[str, float]]:
    """Milliseconds of each decode step's parts; host: all but the forward."""
    steps = []
    with _watched(engine) as watch:
        for _ in decode_steps(engine, rows, _PROMPT, _STEPS, seed=10_000 + seed):
            parts, cpu = watch.lap()
            for seconds in (parts, cpu):
                seconds["forward"] -= seconds.get("plan", 0.0)
                seconds["host"] = seconds["step"] - seconds["forward"]
            parts["host by CPU"] = cpu["host"]
            parts["rest"] = parts["host"] - sum(parts.get(part, 0.0) for part in _PARTS)
            steps.append({part: value * 1e3 for part, value in parts.items()})
    # The first lap holds the prompts' steps, too.
    return steps[1:]
