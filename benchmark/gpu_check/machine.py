"""The machine and the software that a table comes from."""

import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .lab import Lab
from .table import Row

CHECK = "machine"
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "triton", "flash-attn", "transformers")


def check_machine(lab: Lab) -> Iterator[Row]:
    """Facts, as rows of notes."""
    for name, fact in _facts(lab).items():
        yield Row(CHECK, "", name, None, note=fact)


def _facts(lab: Lab) -> dict[str, str]:
    device = _gpu() if lab.device == "cuda" else {"device": f"CPU ({platform.machine()})"}
    packages = {name: _version(name) for name in _PACKAGES}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        **device,
        "python": platform.python_version(),
        **packages,
        "weights": lab.model.name,
        "parity": "the published code's outputs" if lab.golden else "our own float32 forward",
    }


def _gpu() -> dict[str, str]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": f"{properties.total_memory / 2**30:.1f} GiB",
        "driver": _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "CUDA": str(torch.version.cuda),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    commit = _said_by("git", "rev-parse", "--short=12", "HEAD")
    changed = _said_by("git", "status", "--porcelain", "--untracked-files=no")
    return f"{commit} with changes" if changed not in ("", "unknown") else commit


def _said_by(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=_ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip().split("\n", 1)[0] if done.returncode == 0 else "unknown"
