"""Joining a cluster that is there, and one that is not."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..deploy.test_container import free_port
from ..http.running_server import listening_server, run_command, wait_until
from .ray_cluster import FLAGS
from .ray_head import RayHead

# Far less than Ray itself would try for, far more than it takes to import it.
_AT_ONCE_S = 120.0


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
