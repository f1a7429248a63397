"""Output tokens per second, ours beside transformers', in turns; and whether the tokens agree."""

import gc
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .checkpoints import CheckpointPair
from .isolated import Isolated
from .report import Measurement, Report, spread
from .systems import ContinuousBatching, OneByOne, Ours, StaticBatch, build_ours, load_twin
from .workload import CONCURRENT, LONG, SINGLE, Request, Workload

_SECTION = "throughput"
# Ratios to reach, by workload and by the system compared with.
_GOALS = {
    (CONCURRENT.name, OneByOne.name): 8.0,
    (CONCURRENT.name, StaticBatch.name): 3.0,
    (CONCURRENT.name, ContinuousBatching.name): 2.5,
    (LONG.name, ContinuousBatching.name): 5.0,
    (SINGLE.name, OneByOne.name): 2.0,
}
_WARM_UP_SEED, _AGREEMENT_SEED, _AGREEMENT_OUTPUT = 1000, 2000, 32


@dataclass
class _Speeds:
    """Output tokens per second of each round, by the clock and by the process's CPU time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure_throughput(report: Report, pair: CheckpointPair, rounds: int, threads: int) -> None:
    """Round by round every system in turn, on the same requests; new ones in each round."""
    names = (Ours.name, OneByOne.name, StaticBatch.name, ContinuousBatching.name)
    systems = [Isolated(name, pair.model, pair.twin, threads) for name in names]
    try:
        for workload in (CONCURRENT, LONG, SINGLE):
            # A batch of one is what one by one does.
            chosen = [s for s in systems if workload.num_requests > 1 or s.name != StaticBatch.name]
            for system in chosen:
                _warm_up(system, workload)
            speeds = {system.name: _Speeds() for system in chosen}
            for number in range(rounds):
                for system in chosen:
                    found = speeds[system.name]
                    _time(system, _requests(workload, system, number), found)
                    said = f"{workload.name}, round {number + 1}: {system.name}"
                    print(f"{said}, {found.wall[-1]:.1f} tokens/s", file=sys.stderr, flush=True)
            _report(report, workload, speeds)
    finally:
        for system in systems:
            system.close()


def _warm_up(system: Isolated, workload: Workload) -> None:
    """Only ours compiles for the number of rows; transformers' need no more than to be called."""
    requests = workload.requests(_WARM_UP_SEED)
    if system.name != Ours.name:
        requests = requests[:2]
    system.generate([replace(request, num_output=3) for request in requests])


def _requests(workload: Workload, system: Isolated, seed: int) -> list[Request]:
    requests = workload.requests(seed)
    if system.name == OneByOne.name:
        return [requests[i] for i in workload.alone]
    return requests


def _time(system: Isolated, requests: list[Request], speeds: _Speeds) -> None:
    timed = system.generate(requests)
    wanted = [request.num_output for request in requests]
    made = [len(answer) for answer in timed.answers]
    if made != wanted:
        raise RuntimeError(f"{system.name} made {made} tokens, not {wanted}")
    speeds.wall.append(sum(wanted) / timed.wall_s)
    speeds.cpu.append(sum(wanted) / timed.cpu_s)


def _report(report: Report, workload: Workload, speeds: dict[str, _Speeds]) -> None:
    prompts, outputs = (
        f"{low}–{high}" for low, high in (workload.prompt_lens, workload.output_lens)
    )
    print(
        f"\n{workload.name}: prompts {prompts}, answers {outputs}, {workload.num_output} tokens out"
    )
    print(f"{'':20} {'tokens/s':>22} {'tokens/CPU-s':>22} {'ours is, ×':>18} {'by CPU, ×':>18}")
    ours = speeds[Ours.name]
    for name, theirs in speeds.items():
        line = f"{name:20} {spread(theirs.wall):>22} {spread(theirs.cpu):>22}"
        report.add(Measurement(_SECTION, f"{workload.name}, {name}", theirs.wall, "tokens/s"))
        report.add(
            Measurement(_SECTION, f"{workload.name}, {name}, by CPU", theirs.cpu, "tokens/s")
        )
        if theirs is not ours:
            wall = [a / b for a, b in zip(ours.wall, theirs.wall, strict=True)]
            cpu = [a / b for a, b in zip(ours.cpu, theirs.cpu, strict=True)]
            line += f" {spread(wall, 2):>18} {spread(cpu, 2):>18}"
            title = f"{workload.name}, ours over {name}"
            goal = _GOALS.get((workload.name, name))
            report.add(Measurement(_SECTION, title, wall, "×", goal))
            report.add(Measurement(_SECTION, f"{title}, by CPU", cpu, "×"))
        if name == OneByOne.name and len(workload.alone) < workload.num_requests:
            line += f"  timed on {len(workload.alone)} of {workload.num_requests}"
        print(line, flush=True)


def check_agreement(report: Report, checkpoint: Path, twin_path: Path) -> None:
    """In float32, how many of the 16 requests get the same tokens from us, all together, and from
    generate(), alone. Not timed. Two nearly equal logits may part the two."""
    requests = [
        replace(request, num_output=min(request.num_output, _AGREEMENT_OUTPUT))
        for request in CONCURRENT.requests(_AGREEMENT_SEED)
    ]
    ours = Ours(build_ours(checkpoint, "float32")).generate(requests)
    theirs = OneByOne(load_twin(twin_path, torch.float32)).generate(requests)
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    tokens = sum(request.num_output for request in requests)
    print(
        f"\nfloat32: {same} of {len(requests)} requests ({tokens} tokens) agree token for token "
        "with generate()"
    )
    report.add(Measurement("agreement", "requests equal to generate()", [same], "", len(requests)))
    gc.collect()
