"""The engine in a thread of the API's process against one in a process of its own.

64 greedy streams at once on a tiny model of random weights, first from inside, through AsyncEngine,
then over HTTP. Both kinds are up all the time, the idle one asleep, and take turns, round by round.
A gap is the time between two tokens of one stream, as its reader sees it. CPU time is that of the
API's process and its children together; it says most on a machine that is not ours alone.

    python -m benchmark.process [--rounds 5] [--checkpoint DIR]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

import numpy as np
import psutil

from .checkpoints import random_checkpoint
from .child_module import child_environment, child_module
from .load.client import Client
from .load.endpoint import Endpoint
from .own_server import OwnServer
from .report import spread
from .workload import random_tokens

if TYPE_CHECKING:
    from scoring.async_engine import AsyncEngine

_KINDS = ("thread", "process")
_STREAMS, _PROMPT_TOKENS, _OUTPUT_TOKENS = 64, 32, 96
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Round:
    """One round of all streams. Milliseconds."""

    tokens_per_s: float
    gap_p50: float
    gap_p99: float
    cpu_ms: float = 0.0  # per token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="default: a tiny one of random weights; another needs the genuine vocabulary's size",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", choices=_KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        asyncio.run(_work(options.checkpoint, options.worker))
        return
    checkpoint = options.checkpoint or random_checkpoint("tiny")
    columns = f"{'gap p50, ms':>22} {'p99, ms':>22} {'CPU ms/token':>20}"
    print(f"{'':12} {'engine in a':>12} {'tokens/s':>24} {columns}", flush=True)
    with _Worker.both(checkpoint) as workers:
        _take_turns("AsyncEngine", workers, options.rounds)
    with _Server.both(checkpoint) as servers:
        _take_turns("HTTP", servers, options.rounds)


def _take_turns(
    where: str, sides: dict[str, "_Worker"] | dict[str, "_Server"], rounds: int
) -> None:
    found: dict[str, list[Round]] = {kind: [] for kind in _KINDS}
    for number in range(rounds + 1):
        # Who goes first changes, as who goes second finds a warmer machine.
        for kind in _KINDS if number % 2 else reversed(_KINDS):
            cpu_s = _cpu_s(sides[kind].pid)
            measured, num_tokens = sides[kind].run(number)
            cpu_ms = (_cpu_s(sides[kind].pid) - cpu_s) * 1e3 / num_tokens
            if number:  # the first round warms up
                found[kind].append(replace(measured, cpu_ms=cpu_ms))
    for kind, measured_rounds in found.items():
        line = f"{where:12} {kind:>12}"
        for name, width in (("tokens_per_s", 24), ("gap_p50", 22), ("gap_p99", 22), ("cpu_ms", 20)):
            values = [getattr(measured, name) for measured in measured_rounds]
            line += f" {spread(values, 2 if name == 'cpu_ms' else 1):>{width}}"
        print(line, flush=True)


def _cpu_s(pid: int) -> float:
    """CPU time so far of a process and its children."""
    process = psutil.Process(pid)
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


def _round(times: list[list[float]], start: float, num_tokens: int) -> tuple[Round, int]:
    """times: when each stream's tokens came, in seconds of perf_counter."""
    gaps = [(b - a) * 1e3 for stream in times for a, b in pairwise(stream)]
    percentiles = quantiles(gaps, n=100, method="inclusive")
    end = max(max(stream) for stream in times)
    return Round(num_tokens / (end - start), percentiles[49], percentiles[98]), num_tokens


class _Worker:
    """A process with an AsyncEngine of one kind, which runs a round for each line it is sent."""

    def __init__(self, checkpoint: Path, kind: str) -> None:
        self.kind = kind
        options = ("--checkpoint", str(checkpoint), "--worker", kind)
        self._process = subprocess.Popen(
            child_module(__spec__.name, *options),
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @classmethod
    @contextmanager
    def both(cls, checkpoint: Path) -> Iterator[dict[str, "_Worker"]]:
        workers: dict[str, _Worker] = {}
        try:
            for kind in _KINDS:
                workers[kind] = cls(checkpoint, kind)
            yield workers
        finally:  # each ends when nothing more can come
            for worker in workers.values():
                worker._process.communicate(timeout=_TIMEOUT_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, seed: int) -> tuple[Round, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the worker with the engine in a {self.kind} has ended")
        measured, num_tokens = json.loads(line)
        return Round(**measured), num_tokens


async def _work(checkpoint: Path, kind: str) -> None:
    """The worker's side."""
    from scoring.async_engine import AsyncEngine
    from scoring.engine_client import EngineState
    from scoring.engine_config import EngineConfig

    config = EngineConfig(checkpoint, dtype="float32", max_num_seqs=_STREAMS)
    engine = AsyncEngine(config, max_queued=0, own_process=kind == "process")
    engine.start()
    while engine.state is EngineState.LOADING:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.05)
    engine.check_ready()
    while line := await asyncio.to_thread(sys.stdin.readline):
        random = np.random.default_rng(int(line))
        prompts = [random_tokens(random, _PROMPT_TOKENS) for _ in range(_STREAMS)]
        start = time.perf_counter()
        times = await asyncio.gather(
            *(_times_of(engine, str(n), prompt) for n, prompt in enumerate(prompts))
        )
        measured, num_tokens = _round(times, start, sum(map(len, times)))
        print(json.dumps([asdict(measured), num_tokens]), flush=True)
    await engine.stop()


async def _times_of(engine: "AsyncEngine", name: str, prompt: list[int]) -> list[float]:
    from scoring.sequence import SamplingParams, Sequence

    sequence = Sequence(name, prompt, SamplingParams(max_tokens=_OUTPUT_TOKENS))
    return [time.perf_counter() async for _ in engine.generate(sequence)]


class _Server:
    """`phi3v serve` with an engine of one kind."""

    def __init__(self, checkpoint: Path, kind: str) -> None:
        flag = "--engine-process" if kind == "process" else "--no-engine-process"
        self.server = OwnServer(checkpoint, flag, "--max-num-seqs", str(_STREAMS))
        self._endpoint = Endpoint(f"{self.server.url}/chat/completions", "azure")

    @classmethod
    @contextmanager
    def both(cls, checkpoint: Path) -> Iterator[dict[str, "_Server"]]:
        with ExitStack() as stack:
            servers = {}
            for kind in _KINDS:
                servers[kind] = cls(checkpoint, kind)
                stack.enter_context(servers[kind].server)
            yield servers

    @property
    def pid(self) -> int:
        return self.server.pid

    def run(self, seed: int) -> tuple[Round, int]:
        return asyncio.run(self._run(seed))

    async def _run(self, seed: int) -> tuple[Round, int]:
        client = Client(self._endpoint, _TIMEOUT_S)
        start = time.perf_counter()
        prompts = [f"{seed} {number} once upon a time" for number in range(_STREAMS)]
        chats = ([{"role": "user", "content": prompt}] for prompt in prompts)
        answers = await asyncio.gather(*(client.ask(chat, _OUTPUT_TOKENS) for chat in chats))
        client.close()
        errors = {answer.error for answer in answers if answer.error}
        if errors:
            sys.exit(f"the server failed: {errors}")
        times = [answer.times for answer in answers]
        return _round(times, start, sum(answer.num_tokens for answer in answers))


if __name__ == "__main__":
    main()
