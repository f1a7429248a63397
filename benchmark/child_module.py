"""How one of our modules is started in a process of its own, wherever the user stands: a file
benchmark.py in the current folder must not come before this package."""

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def child_module(name: str, *arguments: str) -> list[str]:
    """The command. It needs child_environment."""
    return [sys.executable, "-P", "-m", name, *arguments]  # -P: no current folder in sys.path


def child_environment() -> dict[str, str]:
    """This process's, in which Python finds this copy of our packages first."""
    others = os.environ.get("PYTHONPATH")
    path = f"{_ROOT}{os.pathsep}{others}" if others else str(_ROOT)
    return os.environ | {"PYTHONPATH": path}
