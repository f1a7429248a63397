"""A system under test in a process of its own, where no other system's threads are in its way.

OpenMP's threads sleep between two calls, instead of waiting awake, in a process with more of them
than cores: beside transformers' continuous batching, idle, everybody lost a fifth of its speed.
"""

import gc
import multiprocessing
import time
from collections.abc import Sequence as Items
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from .systems import ContinuousBatching, System, build_system
from .workload import Request

_system: System  # of the child process


@dataclass(frozen=True)
class Timed:
    """Every request's new tokens, and what they took: by the clock and of the process's time."""

    answers: list[list[int]]
    wall_s: float
    cpu_s: float


class Isolated:
    """Starts the process and loads the system; it takes no processor time between calls."""

    def __init__(self, name: str, checkpoint: Path, twin: Path, threads: int) -> None:
        self.name = name
        self._process = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), _load, (name, checkpoint, twin, threads)
        )

    def generate(self, requests: Items[Request]) -> Timed:
        return self._process.submit(_generate, requests).result()

    def close(self) -> None:
        self._process.submit(_close).result()
        self._process.shutdown()


def _load(name: str, checkpoint: Path, twin: Path, threads: int) -> None:
    global _system
    torch.set_num_threads(threads)
    _system = build_system(name, checkpoint, twin)


def _generate(requests: Items[Request]) -> Timed:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    answers = _system.generate(requests)
    return Timed(answers, time.perf_counter() - wall, time.process_time() - cpu)


def _close() -> None:
    if isinstance(_system, ContinuousBatching):
        _system.close()
