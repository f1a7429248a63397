"""A cluster that outlives what is deployed on it: `ray start --head`, then `serve deploy`."""

import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from ..deploy.test_container import free_port
from ..http.running_server import PROJECT, RunningServer, environment, wait_until

_START_S = 300.0
_CALL_S = 60.0
SERVE_FILE = PROJECT / "deploy/ray/serve.yaml"


class RayHead:
    """Its one machine, and the application that `deploy` puts there."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        directory: Path,
        address: str,
        token: str,
        dashboard_port: int,
    ) -> None:
        self.process = process
        self.address = address
        self.variables = _variables(token)
        """Of who joins."""
        self.application = RunningServer(
            process, directory / "head.log", f"http://127.0.0.1:{free_port()}", None
        )
        self.application.health_s = 10.0
        self._config_file = directory / "serve.yaml"
        self._settings: dict[str, Any] = {}
        self._token = token
        self._dashboard = f"http://127.0.0.1:{dashboard_port}"

    def deploy(self, *deployments: dict[str, Any], **settings: Any) -> None:
        """`serve deploy` of the file that is shipped, with other settings, which stay until they
        are changed again, and, of single deployments, other options."""
        self._settings |= settings
        config = deepcopy(yaml.safe_load(SERVE_FILE.read_text()))
        url = httpx.URL(self.application.base_url)
        config["proxy_location"] = "HeadOnly"  # here is one port only
        config["http_options"] = {"host": url.host, "port": url.port}
        (application,) = config["applications"]
        del application["args"]["max_replicas"], application["args"]["api_key_file"]
        application["args"] |= {"host": url.host, "device": "cpu", "kv_cache_gib": 0.2}
        application["args"] |= {"replica_cpus": 0.4, "ingress_cpus": 0.4}
        application["args"] |= self._settings
        application["deployments"] = list(deployments)
        self._config_file.write_text(yaml.safe_dump(config))
        arguments = ("deploy", "-a", self._dashboard, str(self._config_file))
        done = subprocess.run(
            [sys.executable, "-m", "ray.serve.scripts", *arguments],
            env=environment(**self.variables),
            capture_output=True,
            text=True,
            timeout=_START_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def wait_until_settled(self, *, without: Container[str] = (), **counts: int) -> set[str]:
        """Until there are so many replicas of each deployment named, and none that comes or goes,
        nor one of those that must be gone → their names."""

        def settled() -> set[str] | None:
            application = self._application()
            assert application.get("status") != "DEPLOY_FAILED", application["message"]
            names = set()
            for deployment, count in counts.items():
                replicas = application.get("deployments", {}).get(deployment, {"replicas": []})
                if [one["state"] for one in replicas["replicas"]] != ["RUNNING"] * count:
                    return None
                names |= {one["replica_id"] for one in replicas["replicas"]}
            is_running = application["status"] == "RUNNING"
            return names if is_running and not any(name in without for name in names) else None

        return wait_until(settled, _START_S, f"the cluster has {counts}")

    def has_application(self) -> bool:
        return bool(self._application())

    def wait_until_ready(self, num_engines: int, status: str = "ready") -> None:
        """Until the application says so, or has another status, and has heard of all its
        engines."""

        def is_ready() -> bool:
            try:
                state = self.application.request("GET", "/health/ready", timeout=10.0).json()
            except (httpx.TransportError, ValueError):  # nobody is there yet, or Ray's proxy alone
                return False
            engines = [engine["status"] for engine in state.get("engines", [])]
            return state["status"] == status and engines == ["ready"] * num_engines

        wait_until(is_ready, _START_S, f"{num_engines} engines are ready")

    @contextmanager
    def further_machine(self, log_file: Path, drain_s: int) -> Iterator["subprocess.Popen[bytes]"]:
        """Another of its machines, with a core. At SIGTERM it has drain_s to finish what it has."""
        drain = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(drain_s)}
        arguments = ("--address", self.address, "--num-cpus", "1")
        process = _machine(log_file, self.variables | drain, *arguments)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(drain_s + 60)

    def _application(self) -> dict[str, Any]:
        answer = httpx.get(
            f"{self._dashboard}/api/serve/applications/",
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=_CALL_S,
        )
        return dict(answer.raise_for_status().json()["applications"].get("phi3v", {}))

    @classmethod
    @contextmanager
    def started(cls, log_directory: Path, *flags: str) -> Iterator["RayHead"]:
        """flags: of `ray start`, beside those that every head has."""
        token, port, dashboard_port = secrets.token_hex(32), free_port(), free_port()
        # Its sockets' paths may have a hundred characters.
        directory = Path(tempfile.mkdtemp(prefix="ray-"))
        arguments = ("--head", "--num-cpus", "4", "--temp-dir", str(directory), *flags)
        arguments += ("--port", str(port), "--ray-client-server-port", str(free_port()))
        arguments += ("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port))
        process = _machine(log_directory / "head.log", _variables(token), *arguments)
        try:
            head = cls(process, log_directory, f"127.0.0.1:{port}", token, dashboard_port)
            wait_until(head._listens, _START_S, "the cluster's head listens")
            yield head
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(60)
            _, left = psutil.wait_procs(children, timeout=30)
            shutil.rmtree(directory, ignore_errors=True)
        assert not left, "nothing is left of the cluster"

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.application.log
        try:
            self._application()
        except httpx.HTTPError:
            return False
        return True


def _machine(
    log_file: Path, variables: dict[str, str], *arguments: str
) -> "subprocess.Popen[bytes]":
    """`ray start` of one, until it is terminated."""
    arguments += ("--dashboard-agent-listen-port", str(free_port()))
    arguments += ("--metrics-export-port", str(free_port()))
    with log_file.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments],
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _variables(token: str) -> dict[str, str]:
    return {
        "PYTHONPATH": str(PROJECT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        # The cluster ends at once when the tests do.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
