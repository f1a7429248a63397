"""Real clusters on this machine. Skipped without the extra."""

from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from ..http.running_server import RunningServer
from ..http.session_checkpoints import demo_checkpoint
from .ray_cluster import ready_cluster

__all__ = ["demo_checkpoint", "ready_cluster"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A dozen processes start, on few cores: each test has time for that."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(600))
            if find_spec("ray") is None:
                item.add_marker(pytest.mark.skip(reason="the extra ray is not installed"))


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's servers log to."""
    return tmp_path_factory.mktemp("ray-logs")


@pytest.fixture(scope="session")
def cluster(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """Two engines behind one ingress; every test leaves them well."""
    with ready_cluster(logs / "cluster.log", demo_checkpoint, "--replicas", "2") as server:
        yield server


def replica_processes(server: RunningServer, deployment: str) -> list[psutil.Process]:
    """The actors that are a deployment's replicas."""
    return replicas_below(server.resources, deployment)


def replicas_below(process: psutil.Process, deployment: str) -> list[psutil.Process]:
    """Those that it started, at some remove. Behind the name may stand what they do."""
    title = f"ray::ServeReplica:phi3v:{deployment}"
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if " ".join(child.cmdline()[:1]).startswith(title):
                found.append(child)
    return found
