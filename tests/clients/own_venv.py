"""Clients that cannot share our packages: each has a virtual environment of its own, made when a
test first asks for it, and kept."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

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
    directory.parent.mkdir(exist_ok=True)
    with FileLock(directory.with_name(f"{directory.name}.lock")):  # files of tests run side by side
        stamp, wanted = directory / "installed", "\n".join(requirements)
        if not stamp.is_file() or stamp.read_text() != wanted:
            _install(directory, requirements)
            stamp.write_text(wanted)
    return directory / "bin" / "python"


def _install(directory: Path, requirements: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
    install = [directory / "bin" / "python", "-m", "pip", "install", "--quiet"]
    done = subprocess.run(
        [*install, "--disable-pip-version-check", "--retries", "1", *requirements],
        capture_output=True,
        text=True,
        timeout=_INSTALL_S,
        check=False,
    )
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1]
        pytest.skip(f"pip could not install {requirements[0]}: {why}")


@contextmanager
def client_with(*requirements: str, script: str) -> Iterator[ClientProcess]:
    """The script of that name in tests/clients/own_venvs, running where the packages are."""
    with client_process(python_with(*requirements), SCRIPTS / script) as client:
        yield client
