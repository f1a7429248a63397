"""What the engine would run on. A child process finds out: this package never imports torch, and
one that does not fit the driver may end its process."""

import subprocess
import tempfile
from pathlib import Path

import msgspec

from scoring.child_process import start_python
from scoring.device_report import DeviceReport, decode_report, encode_config
from scoring.engine_config import DeviceName, EngineConfig
from scoring.host_memory import host_memory

from .finding import Finding, failed, ok, warning

_TIMEOUT_S = 180  # kernels may have to be built
_DRIVER = Path("/proc/driver/nvidia/version")
_GIB = 1 << 30


def check_device(config: EngineConfig | None, wanted: DeviceName) -> list[Finding]:
    """config: None where there are no weights, whose attention and memory could be looked at."""
    memory = host_memory()
    found = [ok("memory", f"{memory.available / _GIB:.2f} GiB {memory.where}")]
    report, trouble = _ask(config)
    if report is None:
        return [*found, failed("device", trouble)]
    found += [_gpus(report)]
    found += [ok("engine", note) for note in report.notes]
    found += [ok("plan", line) for line in report.plan]
    if wanted == "cuda" and not report.gpus:
        found.append(failed("device", "device is 'cuda', and torch sees no GPU"))
    elif report.failure is not None:
        found.append(failed("engine", report.failure))
    return found


def _ask(config: EngineConfig | None) -> tuple[DeviceReport | None, str]:
    """The report, or why there is none."""
    with tempfile.TemporaryFile() as errors:
        child = start_python(
            "scoring.device_report", encode_config(config), stdout=subprocess.PIPE, stderr=errors
        )
        try:
            output, _ = child.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return None, f"torch did not answer within {_TIMEOUT_S} s"
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
    try:
        return decode_report(output), ""
    except msgspec.MsgspecError:
        return None, f"torch failed with exit code {child.returncode}: {last[:300]}"


def _gpus(report: DeviceReport) -> Finding:
    driver = _driver()
    build = f"torch {report.torch}, " + (f"CUDA {report.cuda}" if report.cuda else "no CUDA")
    if report.gpus:
        shown = "; ".join(
            f"{gpu.name}, {gpu.memory_bytes / _GIB:.1f} GiB, compute capability "
            f"{gpu.capability[0]}.{gpu.capability[1]}"
            for gpu in report.gpus
        )
        return ok("gpus", f"{shown} ({build}, driver {driver or 'unknown'})")
    if driver is None:
        return ok("gpus", f"no GPU here: the model runs on the CPU ({build})")
    reasons = "; ".join(report.warnings) or "they do not fit each other"
    return warning("gpus", f"driver {driver} is there, but torch sees no GPU ({build}): {reasons}")


def _driver() -> str | None:
    """The NVIDIA driver's version, as the kernel tells it."""
    try:
        words = _DRIVER.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")
