"""What a long picture prompt does to those who are reading their answers: inter-token latency of
running streams while it is prefilled, beside what it was just before."""

import time
from collections.abc import Callable

import numpy as np

from scoring.engine import Engine

from .pictures import PicturePrompts, random_picture
from .report import Measurement, Report, spread
from .systems import to_sequence
from .workload import random_tokens

_SECTION = "mixed load"
_STREAMS, _PROMPT, _QUIET_STEPS = 8, 128, 100
_MAX_OUTPUT = 2000
_GOAL = 3.0


def measure_mixed_load(
    report: Report, engine: Engine, prompts: PicturePrompts, rounds: int
) -> None:
    laps = [_lap(engine, prompts, 200 + seed) for seed in range(rounds + 1)][1:]
    quiet, busy, ttft = (list(column) for column in zip(*laps, strict=True))
    ratio = [b / q for b, q in zip(busy, quiet, strict=True)]
    print(
        f"\nmixed load: inter-token p99 of {_STREAMS} streams {spread(quiet)} ms; "
        f"while a picture prompt prefills {spread(busy)} ms, {spread(ratio, 2)} ×; "
        f"the picture's first token after {spread(ttft, 2)} s",
        flush=True,
    )
    report.add(Measurement(_SECTION, "inter-token p99 without", quiet, "ms", None, False))
    report.add(Measurement(_SECTION, "inter-token p99 with", busy, "ms", None, False))
    report.add(Measurement(_SECTION, "with over without", ratio, "×", _GOAL, False))
    report.add(Measurement(_SECTION, "the picture's first token", ttft, "s", None, False))


def _lap(engine: Engine, prompts: PicturePrompts, seed: int) -> tuple[float, float, float]:
    """→ inter-token p99 without and with the picture's prefill, ms, and the picture's TTFT, s."""
    random = np.random.default_rng(seed)
    prompt = prompts.build(random_picture(seed), "What is in this picture?")
    streams = [to_sequence(random_tokens(random, _PROMPT), _MAX_OUTPUT) for _ in range(_STREAMS)]
    clock = _StreamClock({stream.id for stream in streams})
    for stream in streams:
        engine.add(stream)
    picture = to_sequence(prompt.token_ids, 1, prompt.images)
    try:
        clock.run(engine, until=lambda: clock.num_steps > _QUIET_STEPS // 4)  # prefill, settle
        clock.gaps.clear()
        clock.run(engine, until=lambda: len(clock.gaps) >= _QUIET_STEPS * _STREAMS)
        quiet = _p99(clock.gaps)
        clock.gaps.clear()
        engine.add(picture)
        start = time.perf_counter()
        clock.run(engine, until=lambda: picture.id in clock.others)
        return quiet * 1e3, _p99(clock.gaps) * 1e3, time.perf_counter() - start
    finally:
        for sequence in (*streams, picture):
            engine.abort(sequence.id)


def _p99(gaps: list[float]) -> float:
    return float(np.percentile(gaps, 99))


class _StreamClock:
    """Notes the time between two tokens of the same stream. others: who else got a token."""

    def __init__(self, streams: set[str]) -> None:
        self.gaps: list[float] = []
        self.others: set[str] = set()
        self.num_steps = 0
        self._streams = streams
        self._last: dict[str, float] = {}

    def run(self, engine: Engine, until: Callable[[], bool]) -> None:
        while not until():
            outputs = engine.step()
            now = time.perf_counter()
            self.num_steps += 1
            for output in outputs:
                if output.error is not None:
                    raise RuntimeError(output.error)
                if output.sequence_id not in self._streams:
                    self.others.add(output.sequence_id)
                    continue
                if output.sequence_id in self._last:
                    self.gaps.append(now - self._last[output.sequence_id])
                self._last[output.sequence_id] = now
