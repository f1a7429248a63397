"""What a test that starts an engine's process needs around it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .engine_processes import PROJECT


@pytest.fixture
def own_temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files where nobody else has any; and this project in the path, where
    the process finds the toy engine."""
    monkeypatch.syspath_prepend(PROJECT)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)
