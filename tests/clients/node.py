"""Node and the packages that its scripts need, where there are both."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .client_process import ClientProcess, client_process

SCRIPTS = Path(__file__).resolve().parent / "js"
OLDEST = 18


def node() -> str:
    """The command. Skips the test where there is none, or none that the packages run on."""
    command = shutil.which("node")
    if command is None:
        pytest.skip("the JavaScript clients need Node, which is not installed")
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.match(r"v(\d+)\.", said)
    if version is None or int(version[1]) < OLDEST:
        pytest.skip(f"the JavaScript clients need Node {OLDEST}; this is {said.strip()}")
    if not (SCRIPTS / "node_modules").is_dir():
        pytest.skip("the JavaScript clients are not installed: npm ci in tests/clients/js")
    return command


@contextmanager
def node_client(script: str) -> Iterator[ClientProcess]:
    """The script of that name in tests/clients/js, running."""
    with client_process(node(), SCRIPTS / script) as client:
        yield client
