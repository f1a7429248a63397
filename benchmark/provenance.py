"""Where a measurement comes from: versions and commit of the software, and the machine."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

import psutil

_ROOT = Path(__file__).resolve().parent.parent
UNKNOWN = "unknown"


def version(package: str) -> str:
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Of the checkout that this runs from."""
    found = said_by("git", "rev-parse", "--short=12", "HEAD")
    changed = said_by("git", "status", "--porcelain", "--untracked-files=no")
    return f"{found} with changes" if changed not in ("", UNKNOWN) else found


def said_by(*command: str) -> str:
    """The first line that a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=_ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    return done.stdout.strip().split("\n", 1)[0] if done.returncode == 0 else UNKNOWN


def hardware() -> dict[str, str | int]:
    """Of this machine: processor, cores that this process may use, memory, and GPUs if any."""
    return {
        "processor": _processor(),
        "cores": _num_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": said_by("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "system": platform.platform(terse=True),
    }


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
