"""The servers that are measured."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..http.parrot import Parrot, ParrotServer, parrot_server
from ..http.session_checkpoints import demo_checkpoint

__all__ = ["demo_checkpoint"]

KEY = "a-key-that-must-never-be-written-down"


@pytest.fixture(scope="package")
def keyed_parrot(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    """Our server for those who have the key: its model says what it is told."""
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), api_key=KEY) as server:
        yield server
