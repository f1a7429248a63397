"""The servers that most tests share: each is started once, and every test leaves it well."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .parrot import Parrot, ParrotServer, parrot_server
from .running_server import Ready, RunningServer
from .session_checkpoints import demo_checkpoint, tiny_checkpoint

__all__ = ["demo_checkpoint", "tiny_checkpoint"]

KEY = "a-key-that-must-never-be-logged"
CONTEXT = 1024


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's servers log to."""
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def demo(demo_checkpoint: Path, logs: Path, ready: Ready) -> Iterator[RunningServer]:
    """The demo model, open to anyone on loopback."""
    with ready(logs / "demo.log", demo_checkpoint) as server:
        yield server


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path, logs: Path, ready: Ready) -> Iterator[RunningServer]:
    """The tiny model in the genuine layout with the genuine tokenizer, in float32."""
    with ready(logs / "tiny.log", tiny_checkpoint, "--dtype", "float32") as server:
        yield server


@pytest.fixture(scope="session")
def small(demo_checkpoint: Path, logs: Path, ready: Ready) -> Iterator[RunningServer]:
    """The demo model with a key and the tightest limits: a context of CONTEXT tokens, bodies of
    1 MiB, and one request at a time with nobody waiting."""
    flags = ["--max-model-len", str(CONTEXT), "--max-body-mib", "1"]
    flags += ["--max-num-seqs", "1", "--max-queued-requests", "0"]
    with ready(logs / "small.log", demo_checkpoint, *flags, api_key=KEY) as server:
        yield server


@pytest.fixture(scope="session")
def parrot(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    """A server in this process that answers with what it is told."""
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint)) as server:
        yield server
