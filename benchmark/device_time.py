"""How long work takes on a device, without what it costs the host to ask for it."""

import time
from collections.abc import Callable

import torch

CPU = torch.device("cpu")
_REPEATS = 7


def best_seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    """The shortest of seven runs, after one that does not count."""
    work()
    return min(_seconds(work, device) for _ in range(_REPEATS))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
