"""How much memory loading takes: the peak above an idle interpreter, over the weights' bytes; the
packing of weights for the processor included.

Each measurement runs in a fresh process, so that nothing is left over from the one before. Peak
and idle are resident set sizes as the kernel counts them, pages of mapped files included.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_SHARED = _ROOT.parent / "shared"
GENUINE = _SHARED / "phi-3-vision-128k-instruct"
_MAKE_MID = _SHARED / "tools" / "make_mid.py"
_CACHE = Path(tempfile.gettempdir()) / "phi3v-bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a checkpoint of the full size, too")
    parser.add_argument("--checkpoint", type=Path, help="measure this one instead")
    parser.add_argument("--measure", nargs=2, metavar=("DIR", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), options.measure[1])))
        return
    if options.checkpoint:
        runs = [(options.checkpoint, dtype) for dtype in ("bfloat16", "float32")]
    else:
        runs = [(_mid(), dtype) for dtype in ("bfloat16", "float32")]
        if options.full:
            runs.append((_full(), "bfloat16"))
    print(f"{'checkpoint':12} {'dtype':10} {'weights':>9} {'peak':>9} {'ratio':>6} {'time':>8}")
    for checkpoint, dtype in runs:
        found = _in_fresh_process(checkpoint, dtype)
        print(
            f"{checkpoint.name:12} {dtype:10} {found['weights'] / 1e9:6.2f} GB "
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
    command = [sys.executable, "-m", __spec__.name, "--measure", str(checkpoint), dtype]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def _mid() -> Path:
    """The mid-sized checkpoint of 0.31 B parameters."""
    directory = _CACHE / "phi3v-mid"
    if not (directory / "config.json").exists():
        if not _MAKE_MID.exists():
            sys.exit("the script for the mid-sized checkpoint is not here; use --checkpoint")
        subprocess.run([sys.executable, str(_MAKE_MID), str(directory)], check=True)
    return directory


def _full() -> Path:
    """Random weights for the genuine configuration: 8.3 GB in bfloat16."""
    directory = _CACHE / "phi3v-full"
    if not (directory / "model.safetensors.index.json").exists():
        from scoring.random_checkpoint import write_random_weights

        directory.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
            shutil.copy(GENUINE / name, directory)
        print("building the full-size checkpoint …", flush=True)
        write_random_weights(directory)
    return directory


if __name__ == "__main__":
    main()
