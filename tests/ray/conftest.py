"""A real cluster on this machine, started by the documented command. Skipped without the extra."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from ..http.running_server import RunningServer, ready_server
from ..http.session_checkpoints import demo_checkpoint

__all__ = ["demo_checkpoint"]

_FLAGS = (
    *("--cluster", "ray", "--device", "cpu", "--kv-cache-gib", "0.2"),
    # Fewer than there are: cores are what Ray counts, not what it binds to.
    *("--replica-cpus", "0.4", "--ingress-cpus", "0.4"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("ray") is None:
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason="the extra ray is not installed"))


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's servers log to."""
    return tmp_path_factory.mktemp("ray-logs")


def ready_cluster(
    log_file: Path, model: Path, *flags: str, api_key: str | None = None
) -> AbstractContextManager[RunningServer]:
    """`phi3v serve --cluster ray`, taking requests."""
    variables = {"RAY_USAGE_STATS_ENABLED": "0"}
    return ready_server(log_file, model, *_FLAGS, *flags, api_key=api_key, variables=variables)


@pytest.fixture(scope="session")
def cluster(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """Two engines behind one ingress; every test leaves them well."""
    with ready_cluster(logs / "cluster.log", demo_checkpoint, "--replicas", "2") as server:
        yield server


def replica_processes(server: RunningServer, deployment: str) -> list[psutil.Process]:
    """The actors that are a deployment's replicas."""
    return [
        child
        for child in server.resources.children(recursive=True)
        if child.cmdline()[:1] == [f"ray::ServeReplica:phi3v:{deployment}"]
    ]
