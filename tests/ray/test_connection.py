"""Joining a cluster that is there, and one that is not."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..deploy.test_container import free_port
from ..http.running_server import (
    PROJECT,
    environment,
    listening_server,
    run_command,
    wait_until,
)
from .ray_cluster import FLAGS
from .ray_head import RayHead

# Far less than Ray itself would try for, far more than it takes to import it.
_AT_ONCE_S = 120.0
_OWN_CLUSTER = """
import ray
from server.ray.connection import connection
from server.settings import load_settings
with connection(load_settings({"cluster": "ray"}, {})):
    print(ray.get_runtime_context().gcs_address)
"""


def refusal(done: "subprocess.CompletedProcess[str]", status: int = 1) -> str:
    """The last line of a command that did not begin."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def serve(
    model: Path, address: str, port: int = 0, **variables: str
) -> "subprocess.CompletedProcess[str]":
    flags = ("--ray-address", address, "--model", str(model), "--port", str(port))
    return run_command("serve", *FLAGS, *flags, timeout_s=_AT_ONCE_S, **variables)


def test_where_nobody_listens_one_is_told_soon(demo_checkpoint: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    why = f"ray_address is '{address}': nobody answers there"
    assert why in refusal(serve(demo_checkpoint, address))
    lines, model = tmp_path / "in.jsonl", str(demo_checkpoint)
    lines.write_text('{"custom_id": "1", "body": {"messages": []}}\n')
    arguments = (str(lines), str(tmp_path / "out"), "--cluster", "ray", "--ray-address", address)
    batch = run_command("batch", *arguments, "--model", model, timeout_s=_AT_ONCE_S)
    assert why in refusal(batch, 2)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "ray://head:10001"])
def test_what_is_no_address_is_refused(demo_checkpoint: Path, address: str) -> None:
    assert "it must be auto or HOST:PORT" in refusal(serve(demo_checkpoint, address))


@pytest.mark.parametrize("name", ["server.py", "scoring/__init__.py"])
def test_a_directory_whose_modules_would_be_taken_for_ours_is_refused(
    demo_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('not ours')")
    done = subprocess.run(
        [Path(sys.executable).with_name("phi3v"), "serve", *FLAGS, "--model", demo_checkpoint],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=_AT_ONCE_S,
        check=False,
    )
    assert f"would take {name} for" in refusal(done)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    with RayHead.started(tmp_path_factory.mktemp("head")) as head:
        yield head


def test_a_cluster_that_asks_for_a_token_says_so(head: RayHead, demo_checkpoint: Path) -> None:
    """Ray takes the token only where the mode is set, too."""
    token = head.variables["RAY_AUTH_TOKEN"]
    done = serve(demo_checkpoint, head.address, RAY_AUTH_TOKEN=token)
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in refusal(done)


def test_a_cluster_is_joined_with_its_token_and_left_as_it_was(
    head: RayHead, demo_checkpoint: Path, tmp_path: Path
) -> None:
    """Twice, as Serve's proxies stay where they listen; elsewhere they cannot be had."""
    flags = (*FLAGS, "--ray-address", head.address)
    urls = set()
    for log_file in (tmp_path / "joined.log", tmp_path / "again.log"):
        with listening_server(
            log_file, demo_checkpoint, *flags, variables=head.variables, start_s=_AT_ONCE_S
        ) as server:
            urls.add(server.base_url)
            wait_until(
                lambda log=log_file: "all replicas are ready" in log.read_text(), 300, "ready"
            )
            # The log is Ray's word; the application has it from the replica's first report.
            wait_until(lambda on=server: on.state()["status"] == "ready", 30, "it is told")
            assert server.ask("hi", max_tokens=2).status_code == 200
            if len(urls) == 1:
                another = serve(demo_checkpoint, head.address, **head.variables)
                assert "the application 'phi3v' is on this cluster already" in refusal(another)
                assert server.ask("hi", max_tokens=2).status_code == 200
        assert not head.has_application()
        assert head.process.poll() is None
    (url,) = urls
    done = serve(demo_checkpoint, head.address, port=free_port(), **head.variables)
    assert f"Serve runs on this cluster already, at {url.removeprefix('http://')}" in refusal(done)


@pytest.fixture
def rays_directory() -> Iterator[Path]:
    """Its sockets' paths may have a hundred characters."""
    directory = Path(tempfile.mkdtemp(prefix="ray-"))
    yield directory
    shutil.rmtree(directory)


def own_cluster(**variables: str) -> str:
    """The address of a cluster as one is started without ray_address."""
    done = subprocess.run(
        [sys.executable, "-c", _OWN_CLUSTER],
        cwd=PROJECT,
        env=environment(**{"RAY_USAGE_STATS_ENABLED": "0"} | variables),
        capture_output=True,
        text=True,
        timeout=_AT_ONCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("named_by", ["variable", "file"])
def test_a_cluster_of_ones_own_is_none_that_ray_finds(
    head: RayHead, rays_directory: Path, named_by: str
) -> None:
    """It joined the one that RAY_ADDRESS, or the last `ray start`, named, and at its end deleted
    every application there."""
    variables = head.variables | {"RAY_TMPDIR": str(rays_directory)}
    if named_by == "variable":
        variables["RAY_ADDRESS"] = head.address
    else:
        (rays_directory / "ray").mkdir()
        (rays_directory / "ray/ray_current_cluster").write_text(head.address)
    assert own_cluster(**variables).rpartition(":")[2] != head.address.rpartition(":")[2]


def test_a_cluster_of_ones_own_needs_no_home(rays_directory: Path) -> None:
    """The image's user has none, and Ray wrote its token there."""
    assert own_cluster(HOME="/dev/null", RAY_TMPDIR=str(rays_directory))
