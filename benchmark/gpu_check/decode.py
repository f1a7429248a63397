"""What a step of decodes takes, of what it takes at least; and the host's part of it."""

import time
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from itertools import product
from statistics import median

import torch

from scoring.engine import Engine
from scoring.kv_cache import bytes_per_token
from scoring.model_runner import ModelRunner
from scoring.scheduler import SampledToken, ScheduledRow
from scoring.step import LaunchedStep, SampledStep

from ..bandwidth import BandwidthProbe
from ..decode import decode_steps
from .cost import weights_read
from .inside import RunnerAround, backend_name, is_captured, num_cache_tokens, runner_of, running
from .lab import Lab, synchronize
from .table import Row, skipped

CHECK = "decode"
# Steps before those that are timed, for what is chosen at first use; prompt tokens of a step, while
# prompts come in; and the largest block that a row may leave half empty.
_WARM_UP, _PROMPT_SHARE, _MAX_BLOCK = 4, 2048, 256
# Beside weights so small, the memory's speed is no limit: the largest caches hold them.
_IN_A_CACHE = 256 << 20


class StepClock(RunnerAround):
    """Times steps: what the host waits for the device, and what the device takes from the first
    kernel of a step to its last."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner)
        self.waited_s = 0.0
        self.computed_s = 0.0  # by a CPU, on the host itself
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def launch(self, rows: Items[ScheduledRow]) -> LaunchedStep:
        begin = self._mark()
        start = time.perf_counter()
        launched = self.runner.launch(rows)
        self.computed_s += time.perf_counter() - start
        return _ClockedLaunch(self, launched, begin)

    def _mark(self) -> torch.cuda.Event | None:
        if self.runner.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def end(self, begin: torch.cuda.Event | None) -> None:
        end = self._mark()
        if begin is not None and end is not None:
            self.events.append((begin, end))

    def device_ms(self) -> list[float]:
        """Of each step so far, and forget them."""
        synchronize(self.runner.device)
        events, self.events = self.events, []
        return [begin.elapsed_time(end) for begin, end in events]


@dataclass
class _ClockedLaunch:
    clock: StepClock
    launched: LaunchedStep
    begin: torch.cuda.Event | None

    def sample(self) -> SampledStep:
        start = time.perf_counter()
        sampled = self.launched.sample()
        self.clock.computed_s += time.perf_counter() - start
        self.clock.end(self.begin)
        return _ClockedSample(self.clock, sampled)


@dataclass
class _ClockedSample:
    clock: StepClock
    sampled: SampledStep

    def collect(self) -> list[SampledToken | None]:
        start = time.perf_counter()
        tokens = self.sampled.collect()
        self.clock.waited_s += time.perf_counter() - start
        return tokens


@dataclass
class _Steps:
    """Milliseconds of the steps, the host's part of them, and the tokens in all rows' context."""

    wall_ms: list[float] = field(default_factory=list)
    host_ms: list[float] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)
    device_ms: list[float] = field(default_factory=list)


def check_decode(lab: Lab) -> Iterator[Row]:
    effort, config = lab.effort, lab.model_config
    dtype = getattr(torch, lab.half)
    engine = lab.build(
        lab.model,
        lab.half,
        max_num_seqs=max(effort.rows),
        prompt_share=_PROMPT_SHARE,
        prefix_cache=False,
        kv_cache_bytes=None
        if lab.device == "cuda"
        else _needed(lab) * bytes_per_token(config, dtype),
    )
    weights = weights_read(config.text) * dtype.itemsize
    bandwidth = BandwidthProbe(lab.torch_device).bytes_per_s()
    yield Row(CHECK, "limits", "read bandwidth", bandwidth / 1e9, "GB/s")
    small = "so few that they may stay in a cache" if weights < _IN_A_CACHE else ""
    yield Row(CHECK, "limits", "weights read", weights / 1e9, "GB/step", note=small)
    yield Row(
        CHECK, "limits", "keys and values", bytes_per_token(config, dtype) / 1e3, "kB/token",
        note=f"attention {backend_name(engine)}, {lab.half}, "
        + ("captured" if is_captured(runner_of(engine)) else "not captured"),
    )  # fmt: skip
    for context, rows in product(effort.contexts, effort.rows):
        subject = f"{rows} row{'s' if rows > 1 else ''} × {context:,}"
        room, wanted = num_cache_tokens(engine), rows * _longest(lab, context, rows)
        if wanted > room:
            yield skipped(CHECK, subject, f"the cache holds {room:,} tokens of {wanted:,}")
            continue
        steps = _run(engine, rows, context, effort.steps)
        yield from _rows(subject, rows, steps, weights, bytes_per_token(config, dtype), bandwidth)


def _run(engine: Engine, rows: int, context: int, num_steps: int) -> _Steps:
    clock, steps = StepClock(runner_of(engine)), _Steps()
    is_cpu = clock.runner.device.type == "cpu"
    with running(engine, clock):
        before = 0.0
        for number, (seconds, tokens) in enumerate(
            decode_steps(engine, rows, context, num_steps + _WARM_UP, seed=context)
        ):
            # On a CPU the host computes, too: that is not what is meant by its time.
            elsewhere = clock.computed_s if is_cpu else clock.waited_s
            if number == _WARM_UP:
                clock.device_ms()
            if number >= _WARM_UP:
                steps.wall_ms.append(seconds * 1e3)
                steps.host_ms.append((seconds - (elsewhere - before)) * 1e3)
                steps.contexts.append(tokens)
            before = elsewhere
        steps.device_ms = clock.device_ms()
        while engine.has_work:  # a step was under way when the rows left
            engine.step()
    return steps


def _rows(
    subject: str, rows: int, steps: _Steps, weights: int, per_token: int, bandwidth: float
) -> Iterator[Row]:
    step = median(steps.wall_ms)
    parts = [
        (weights + tokens * per_token) / bandwidth * 1e3 / wall
        for tokens, wall in zip(steps.contexts, steps.wall_ms, strict=True)
    ]
    yield Row(CHECK, subject, "step", step, "ms")
    yield Row(CHECK, subject, "tokens", rows / step * 1e3, "/s")
    yield Row(CHECK, subject, "of the bandwidth limit", median(parts) * 100, "%")
    yield Row(CHECK, subject, "the host's time", median(steps.host_ms), "ms")
    if steps.device_ms:
        device = median(steps.device_ms)
        yield Row(CHECK, subject, "the device's time", device, "ms")
        yield Row(CHECK, subject, "the device waits for the host", max(0.0, step - device), "ms")


def _longest(lab: Lab, context: int, rows: int) -> int:
    """Tokens that a row may take: the first rows decode while the last prompts come in."""
    while_others_come = rows * context // _PROMPT_SHARE + rows
    return context + while_others_come + _WARM_UP + lab.effort.steps + _MAX_BLOCK


def _needed(lab: Lab) -> int:
    """Tokens that the cache must hold; its blocks are whole ones, and one of them is spare."""
    effort = lab.effort
    return 2 * _MAX_BLOCK + max(
        rows * _longest(lab, context, rows)
        for context, rows in product(effort.contexts, effort.rows)
    )
