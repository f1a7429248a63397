"""Checks a machine with a GPU, or rehearses that on a CPU: one table, and a JSON of it.

    make gpu-check [ARGS="--size full --only decode,prefill"]

    self-test  each attention backend and our Triton kernels, as every start tries them
    parity   each backend, float32 and half precision, against the published code's outputs for the
             tiny checkpoint where they are at hand, else against our own float32 forward on the CPU
    graphs   steps replayed as captured graphs against the same steps run plainly
    aborts   memory and cache blocks after 1,000 requests that left
    decode   1, 8, 32 and 128 rows: the step, the part of the memory's speed that it reaches, the
             host's time, and what the device waits for it
    prefill  1 and 4 prompts of 2,048 tokens and a picture of 16 crops: the part of the matrix rate
    memory   the largest step against what was planned for it

The table is Markdown and goes to the standard output, what is going on to the standard error. The
exit status is 1 where a bound does not hold or a check fails. Each check has a process of its own:
one that crashes or hangs is a row that says so, and the others go on.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from scoring.checkpoint import locate_checkpoint
from scoring.engine_config import DeviceName
from scoring.errors import CheckpointError

from ..checkpoints import random_checkpoint
from .checks import NAMES, tasks
from .isolated import Task, run_isolated
from .lab import QUICK, THOROUGH, Lab
from .machine import CHECK as MACHINE
from .table import Row, to_markdown

_GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
_TINY = "tiny-phi3v"
_TIMEOUT_S = 1800.0


def main() -> None:
    options = _options()
    lab = _lab(options)
    start = time.perf_counter()
    rows: list[Row] = []
    for task in tasks(lab):
        if task.check in (MACHINE, *options.only):
            rows += _run(task)
            _write(options.json, rows, time.perf_counter() - start)
    print(to_markdown(rows))
    broken = [row for row in rows if row.holds is False]
    print(
        f"\n{sum(row.holds is True for row in rows)} bounds hold, {len(broken)} do not; "
        f"{sum(row.state == 'skipped' for row in rows)} skipped, "
        f"{time.perf_counter() - start:.0f} s; also in {options.json}"
    )
    sys.exit(1 if broken else 0)


def _run(task: Task) -> list[Row]:
    print(f"{task.check}, {task.subject} …", end=" ", file=sys.stderr, flush=True)
    start = time.perf_counter()
    rows = list(run_isolated(task, _TIMEOUT_S))
    says = "FAILED" if any(row.holds is False for row in rows) else "done"
    print(f"{says} after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return rows


def _write(file: Path, rows: list[Row], seconds: float) -> None:
    """After each check, so that a run cut short leaves something."""
    found = {
        "machine": {row.quantity: row.note for row in rows if row.check == MACHINE},
        "seconds": round(seconds, 1),
        "rows": [row.to_json() for row in rows if row.check != MACHINE],
    }
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _lab(options: argparse.Namespace) -> Lab:
    """Makes the checkpoints that are missing. Exits the process where there is no such device."""
    device: DeviceName = options.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here; --device cpu rehearses the checks on the CPU")
    golden: Path | None = options.golden
    if golden is None and _GOLDEN.is_dir():
        golden = _GOLDEN
    try:
        if options.model:
            model = locate_checkpoint(options.model, None)
        else:
            model = random_checkpoint(options.size or ("mid" if device == "cuda" else "tiny"))
    except CheckpointError as error:
        sys.exit(str(error))
    quick = device == "cpu" if options.quick is None else options.quick
    return Lab(
        device=device,
        model=model,
        tiny=golden.parent / _TINY if golden else random_checkpoint("tiny"),
        golden=golden,
        effort=QUICK if quick else THOROUGH,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a quick rehearsal"
    )
    parser.add_argument(
        "--size", choices=("tiny", "mid", "full"),
        help="random weights of 0.03, 1.2 or 8.3 GB, made once; mid on a GPU, tiny on a CPU",
    )  # fmt: skip
    parser.add_argument("--model", help="genuine weights instead: a directory, or a hub id")
    parser.add_argument(
        "--golden", type=Path, metavar="DIR",
        help=f"the published code's outputs, {_TINY} beside them; ../shared/golden where it is",
    )  # fmt: skip
    parser.add_argument("--only", type=_names, default=list(NAMES), help="e.g. decode,prefill")
    parser.add_argument(
        "--quick", action=argparse.BooleanOptionalAction,
        help="few rows, short prompts, 60 aborts; so on a CPU, unless --no-quick",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, default=Path("gpu-check.json"), metavar="FILE")
    options = parser.parse_args()
    if options.model and options.size:
        parser.error("--size is for random weights, --model for genuine ones: give one of them")
    if options.golden and not (options.golden.parent / _TINY).is_dir():
        parser.error(f"--golden: there is no {_TINY} beside {options.golden}")
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(NAMES)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: not among {', '.join(NAMES)}"
        )
    return names


if __name__ == "__main__":
    main()
