"""Virtual environments for packages that do not go together with ours, made once and kept."""

import hashlib
import subprocess
import venv
from pathlib import Path

import pytest

_KEPT = Path(__file__).resolve().parent.parent / ".venv" / "others"


def python_with(*requirements: str) -> Path:
    """An interpreter that has these packages; skips the test where they cannot be had."""
    key = hashlib.sha256(" ".join(requirements).encode()).hexdigest()[:8]
    directory = _KEPT / f"{requirements[0].partition('=')[0]}-{key}"
    python, complete = directory / "bin" / "python", directory / "complete"
    if not complete.exists():
        venv.create(directory, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*install, *requirements], check=False, capture_output=True, text=True, timeout=250
        )
        if done.returncode:
            pytest.skip(f"{' '.join(requirements)} cannot be installed: {done.stderr[-200:]}")
        complete.touch()
    return python
