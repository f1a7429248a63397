"""A real cluster on this machine, started by the documented command. Skipped without the extra."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest

from ..http.running_server import RunningServer, listening_server, wait_until
from ..http.session_checkpoints import demo_checkpoint

__all__ = ["demo_checkpoint"]

_FLAGS = (
    *("--cluster", "ray", "--device", "cpu", "--kv-cache-gib", "0.2"),
    # Fewer than there are: cores are what Ray counts, not what it binds to.
    *("--replica-cpus", "0.4", "--ingress-cpus", "0.4"),
)
_START_S = 300.0


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


@contextmanager
def ready_cluster(
    log_file: Path,
    model: Path,
    *flags: str,
    api_key: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """`phi3v serve --cluster ray`, once all its engines take requests."""
    with listening_server(
        log_file,
        model,
        *_FLAGS,
        *flags,
        api_key=api_key,
        variables={"RAY_USAGE_STATS_ENABLED": "0", **(variables or {})},
        start_s=_START_S,
    ) as server:

        def is_ready() -> bool:
            assert server.process.poll() is None, server.log
            try:  # until there is an ingress, Ray's proxy holds what comes
                answer = server.request("GET", "/health/ready", timeout=10.0)
            except httpx.TimeoutException:
                return False
            return bool(answer.json()["status"] == "ready")

        wait_until(is_ready, _START_S, "all replicas of the cluster are ready")
        server.remember_golden()
        yield server


@pytest.fixture(scope="session")
def cluster(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """Two engines behind one ingress; every test leaves them well."""
    with ready_cluster(logs / "cluster.log", demo_checkpoint, "--replicas", "2") as server:
        yield server


def replica_processes(server: RunningServer, deployment: str) -> list[psutil.Process]:
    """The actors that are a deployment's replicas. Behind the name may stand what they do."""
    title = f"ray::ServeReplica:phi3v:{deployment}"
    return [
        child
        for child in server.resources.children(recursive=True)
        if " ".join(child.cmdline()[:1]).startswith(title)
    ]
