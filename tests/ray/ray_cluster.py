"""`phi3v serve --cluster ray`: a cluster on this machine, which ends with its process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from ..http.running_server import RunningServer, listening_server, wait_until

FLAGS = (
    *("--cluster", "ray", "--device", "cpu", "--kv-cache-gib", "0.2"),
    # Fewer than there are: cores are what Ray counts, not what it binds to.
    *("--replica-cpus", "0.4", "--ingress-cpus", "0.4"),
)
_START_S = 300.0
_HEALTH_S = 10.0
"""Proxy, ingress and engine are processes which share few cores here, with Ray's own."""


@contextmanager
def ready_cluster(
    log_file: Path,
    model: Path,
    *flags: str,
    api_key: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """A cluster all of whose engines take requests."""
    with listening_server(
        log_file,
        model,
        *FLAGS,
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
        server.health_s = _HEALTH_S
        server.remember_golden()
        yield server
