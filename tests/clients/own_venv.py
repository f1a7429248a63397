"""Clients that cannot share our packages: each has a virtual environment of its own, made when a
test first asks for it, and kept."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..http.running_server import PROJECT
from .client_process import ClientProcess, client_process

SCRIPTS = Path(__file__).resolve().parent / "own_venvs"
_INSTALL_S = 240


def azure_python(version: str) -> tuple[str, ...]:
    """A version of Azure's client, and what the published samples import beside it."""
    return f"azure-ai-inference=={version}", "azure-identity==1.27.0", "ipython==9.7.0"


def python_with(*requirements: str) -> Path:
    """The Python of an environment that has the packages, and is named after the first. Skips the
    test where they cannot be installed."""
    directory = PROJECT / ".venv" / "clients" / requirements[0]
    python, stamp = directory / "bin" / "python", directory / "installed"
    wanted = "\n".join(requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*install, "--retries", "1", *requirements],
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=False,
        )
        if done.returncode:
            pytest.skip(
                f"pip could not install {requirements[0]}: {done.stderr.strip().splitlines()[-1]}"
            )
        stamp.write_text(wanted)
    return python


@contextmanager
def client_with(*requirements: str, script: str) -> Iterator[ClientProcess]:
    """The script of that name in tests/clients/own_venvs, running where the packages are."""
    with client_process(python_with(*requirements), SCRIPTS / script) as client:
        yield client
