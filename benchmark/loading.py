"""How much memory loading takes: the peak above an idle interpreter, over the weights' bytes; the
packing of weights for the processor included.

Each measurement runs in a fresh process, so that nothing is left over from the one before. Peak
and idle are resident set sizes as the kernel counts them, pages of mapped files included.
"""

import argparse
import json
import re
import subprocess
import time
from pathlib import Path

from .checkpoints import random_checkpoint
from .child_module import child_environment, child_module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="one of the full size, too: 8.3 GB on disk"
    )
    parser.add_argument("--checkpoint", type=Path, help="measure this one instead")
    parser.add_argument("--measure", nargs=2, metavar=("DIR", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), options.measure[1])))
        return
    if options.checkpoint:
        runs = [(options.checkpoint, dtype) for dtype in ("bfloat16", "float32")]
    else:
        runs = [(random_checkpoint("small"), dtype) for dtype in ("bfloat16", "float32")]
        if options.full:
            runs.append((random_checkpoint("full"), "bfloat16"))
    print(f"{'checkpoint':14} {'dtype':10} {'weights':>9} {'peak':>9} {'ratio':>6} {'time':>8}")
    for checkpoint, dtype in runs:
        found = _in_fresh_process(checkpoint, dtype)
        print(
            f"{checkpoint.name:14} {dtype:10} {found['weights'] / 1e9:6.2f} GB "
            f"{found['peak'] / 1e9:6.2f} GB {found['peak'] / found['weights']:6.3f} "
            f"{found['seconds']:6.1f} s"
        )


def measure(checkpoint: Path, dtype: str) -> dict[str, float]:
    """Load in this process. weights, peak: bytes, the peak above what stood before."""
    import torch

    from model_config import from_checkpoint
    from scoring.models.native_kernels import load_native
    from scoring.models.packed_linear import pack_linears
    from scoring.weights import build_empty, load_model

    config = from_checkpoint(checkpoint)
    build_empty(config)  # imports what loading imports
    idle = _status("VmRSS")
    start = time.perf_counter()
    model = load_model(
        checkpoint, config, torch.device("cpu"), getattr(torch, dtype), lambda done, total: None
    )
    weights = sum(p.nbytes for p in model.parameters())
    pack_linears(model, load_native(getattr(torch, dtype), config.text)[0])
    seconds = time.perf_counter() - start
    return {"weights": weights, "peak": _status("VmHWM") - idle, "seconds": seconds}


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(match[1]) * 1024


def _in_fresh_process(checkpoint: Path, dtype: str) -> dict[str, float]:
    command = child_module(__spec__.name, "--measure", str(checkpoint), dtype)
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=child_environment()
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
