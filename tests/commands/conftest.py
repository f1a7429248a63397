"""Servers that commands talk to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..http.conftest import logs
from ..http.parrot import Parrot, ParrotServer, parrot_server
from ..http.pictures import plain_png
from ..http.session_checkpoints import demo_checkpoint

__all__ = ["demo_checkpoint", "logs"]

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="package")
def parrot(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    """A server that says what it is told, for those who have the key."""
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), api_key=KEY) as server:
        yield server


@pytest.fixture
def png(tmp_path: Path) -> Path:
    """A picture's file, with a blank in its name."""
    path = tmp_path / "a picture.png"
    path.write_bytes(plain_png(64, 48))
    return path
