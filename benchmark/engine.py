"""The engine measured: against transformers on the same weights, and against its own goals.

    python -m benchmark.engine [--only throughput,decode,…] [--rounds 3] [--threads 2] [--json FILE]

Makes a checkpoint of random weights and its text twin once, then, in turns and each in a process of
its own, times our engine (bfloat16, the fastest kernels that run here) beside transformers'
generate() one by one, on a padded batch, and its continuous batching. Every number is the median
over the rounds, with the lowest and the highest. Ratios are taken within a round. Sections:

    throughput  tokens per second of the four systems on three workloads
    int8        8-bit weights: their speed beside bfloat16's, and their error
    agreement   float32: our tokens equal generate()'s
    decode      the part of the memory's speed that decoding reaches at 1, 4 and 16 rows
    host        what a step costs besides the forward, at 16 and 64 rows
    prefix      a second turn, and eight users, about one picture
    mixed       running streams while a picture prompt prefills

About ten minutes on two quiet cores. A goal that is not met is a measurement, not a failure: the
exit status says only whether everything could be measured. Absolute numbers are this machine's;
on a shared one trust the ratios, and by CPU time before by the clock.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from .checkpoints import checkpoint_pair
from .decode import measure_decode
from .host_cost import measure_host_cost
from .mixed_load import measure_mixed_load
from .pictures import PicturePrompts, measure_prefix
from .quantization import measure_quantization
from .report import Report
from .systems import build_ours
from .throughput import check_agreement, measure_throughput

_SECTIONS = ("throughput", "int8", "agreement", "decode", "host", "prefix", "mixed")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    start, busy = time.perf_counter(), _busy_elsewhere_s()
    environment = _environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in environment.items()), flush=True)
    report = Report()
    seconds = others = 0.0
    for _ in _measure(report, options):
        seconds = time.perf_counter() - start
        others = (_busy_elsewhere_s() - busy) / seconds
        if options.json:  # after each section, so that a run cut short leaves something
            found = {
                "environment": environment,
                "rounds": options.rounds,
                "seconds": seconds,
                "cores_busy_elsewhere": others,
                "measurements": report.to_json(),
            }
            options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    report.print_goals()
    print(f"\n{seconds:.0f} s, in which other programs kept {others:.2f} cores busy")


def _measure(report: Report, options: argparse.Namespace) -> Iterator[None]:
    """Yields after each section."""
    pair, sections, rounds = checkpoint_pair(), options.only, options.rounds
    if "agreement" in sections:
        check_agreement(report, pair.model, pair.twin)
        yield
    if "throughput" in sections:
        measure_throughput(report, pair, rounds, options.threads)
        yield
    if "int8" in sections:
        measure_quantization(report, pair, rounds, options.threads)
        yield
    engine = build_ours(pair.model, "bfloat16")
    if "decode" in sections:
        measure_decode(report, engine, pair.twin, rounds)
        yield
    if "host" in sections:
        measure_host_cost(report, engine, rounds)
        yield
    prompts = PicturePrompts(pair.model)
    if "prefix" in sections:
        measure_prefix(report, engine, prompts, rounds)
        yield
    if "mixed" in sections:
        measure_mixed_load(report, engine, prompts, rounds)
        yield


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_sections, default=list(_SECTIONS), help="e.g. decode,host")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement here")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads are at least 1")
    return options


def _sections(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(_SECTIONS)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: not among {', '.join(_SECTIONS)}"
        )
    return names


def _busy_elsewhere_s() -> float:
    """Processor time of all other programs since the machine started; the host's own, too, where
    it took time from a virtual machine."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy - own.user - own.system - own.children_user - own.children_system


def _environment(threads: int) -> dict[str, str | int]:
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "load average": f"{os.getloadavg()[0]:.1f}",
    }


if __name__ == "__main__":
    main()
