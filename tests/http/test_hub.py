"""Weights from the hub: fetched at a pinned commit, data only, and served without the hub."""

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from .hub_stand_in import CODE, COMMIT, HUB_ID, HubStandIn, running_hub
from .running_server import listening_server, ready_server, run_command


@pytest.fixture
def hub(demo_checkpoint: Path) -> Iterator[HubStandIn]:
    with running_hub(demo_checkpoint) as hub:
        yield hub


def online(hub_url: str, home: Path) -> dict[str, str]:
    """The variables of a machine that reaches this hub."""
    return {
        "HF_ENDPOINT": hub_url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "XDG_CACHE_HOME": str(home / "cache"),
    }


def download(
    hub_url: str, home: Path, *flags: str, hub_id: str = HUB_ID
) -> "subprocess.CompletedProcess[str]":
    return run_command("download", hub_id, *flags, timeout_s=60, **online(hub_url, home))


def assert_same_files(directory: Path, checkpoint: Path) -> None:
    files = {file.name for file in directory.iterdir() if file.is_file()}
    assert files == {file.name for file in checkpoint.iterdir()}
    for name in files:
        assert (directory / name).read_bytes() == (checkpoint / name).read_bytes()


def assert_one_line(result: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """What an operator reads of a failure. (A progress bar may stand before it.)"""
    assert result.returncode == 1
    *_, last = result.stderr.splitlines()
    assert last.startswith("phi3v: ")
    for word in words:
        assert word in last
    assert "Traceback" not in result.stderr
    assert all(line.startswith("{") for line in result.stdout.splitlines()), "nothing but a log"


def test_a_download_lands_in_the_cache_and_is_served_without_the_hub(
    hub: HubStandIn, demo_checkpoint: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    result = download(hub.url, home, "--revision", COMMIT)
    assert result.returncode == 0, result.stderr
    snapshot = Path(result.stdout.strip())
    assert snapshot.is_relative_to(home)
    assert snapshot.name == COMMIT
    assert_same_files(snapshot, demo_checkpoint)
    # The repository lists code, which is neither kept nor even asked for.
    assert not hub.fetched() & CODE.keys()
    assert not list(home.rglob("*.py"))

    before = len(hub.requests)
    offline = online("http://127.0.0.1:1", home) | {"HF_HUB_OFFLINE": "1"}
    flags = ["--revision", COMMIT]
    with ready_server(tmp_path / "log", HUB_ID, *flags, variables=offline) as server:
        assert server.text("hi", max_tokens=2)
    assert len(hub.requests) == before

    # What the hub said is asked for once; a second time nothing is fetched again.
    assert download(hub.url, home, "--revision", COMMIT).returncode == 0
    assert all(method == "HEAD" for method, path in hub.requests[before:] if "/resolve/" in path)


def test_a_download_may_go_to_a_directory(
    hub: HubStandIn, demo_checkpoint: Path, tmp_path: Path
) -> None:
    target = tmp_path / "weights"
    result = download(hub.url, tmp_path / "home", "--revision", COMMIT, "--to", str(target))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(target)
    assert_same_files(target, demo_checkpoint)
    with listening_server(tmp_path / "log", target) as server:
        assert server.get("/info").status_code == 200


def test_serving_a_hub_id_fetches_it_first(hub: HubStandIn, tmp_path: Path) -> None:
    variables = online(hub.url, tmp_path / "home")
    flags = ["--revision", COMMIT]
    with listening_server(tmp_path / "log", HUB_ID, *flags, variables=variables) as server:
        assert server.get("/info").json()["model_name"] == "phi3v-demo"
    assert "config.json" in hub.fetched()
    assert not hub.fetched() & CODE.keys()


def test_a_hub_id_without_a_commit_is_refused_before_anything_is_asked(
    hub: HubStandIn, tmp_path: Path
) -> None:
    assert_one_line(download(hub.url, tmp_path), HUB_ID, "--revision")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("hub_id", "revision"), [("nobody/nothing", COMMIT), (HUB_ID, "f" * 40)], ids=["id", "commit"]
)
def test_what_the_hub_does_not_have_is_told(
    hub: HubStandIn, tmp_path: Path, hub_id: str, revision: str
) -> None:
    result = download(hub.url, tmp_path, "--revision", revision, hub_id=hub_id)
    assert_one_line(result, hub_id, "404")


@pytest.mark.parametrize("status", [401, 403])
def test_a_hub_that_refuses_is_told(hub: HubStandIn, tmp_path: Path, status: int) -> None:
    hub.failing = status
    assert_one_line(download(hub.url, tmp_path, "--revision", COMMIT), HUB_ID, str(status))


@pytest.fixture(scope="module", autouse=True)
def failed_slowly(
    demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[subprocess.CompletedProcess[str]]"]]:
    """Commands for which the hub's own client tries for long before it gives up: run beside the
    other tests of this file."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    home = tmp_path_factory.mktemp("home")
    serve = ["serve", "--port", "0", "--model", HUB_ID, "--revision", COMMIT]
    with running_hub(demo_checkpoint) as hub, ThreadPoolExecutor(3) as threads:
        hub.failing = 500
        yield {
            "unwell": threads.submit(download, hub.url, home, "--revision", COMMIT),
            "unreachable": threads.submit(download, nowhere, home, "--revision", COMMIT),
            "serve": threads.submit(run_command, *serve, **online(nowhere, home)),
        }


def test_an_interrupted_download_is_not_taken_for_a_model_and_goes_on_later(
    hub: HubStandIn, demo_checkpoint: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (weights,) = (name for name in hub.files if name.endswith(".safetensors"))
    hub.cut_short = {weights}
    assert_one_line(download(hub.url, home, "--revision", COMMIT), HUB_ID)

    offline = online("http://127.0.0.1:1", home) | {"HF_HUB_OFFLINE": "1"}
    flags = ["--port", "0", "--model", HUB_ID, "--revision", COMMIT]
    assert_one_line(run_command("serve", *flags, timeout_s=30, **offline), HUB_ID)

    hub.cut_short = set()
    result = download(hub.url, home, "--revision", COMMIT)
    assert result.returncode == 0, result.stderr
    assert_same_files(Path(result.stdout.strip()), demo_checkpoint)


def test_a_cache_that_lacks_a_shard_is_completed(
    hub: HubStandIn, demo_checkpoint: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    snapshot = Path(download(hub.url, home, "--revision", COMMIT).stdout.strip())
    (weights,) = snapshot.glob("*.safetensors")
    weights.unlink()
    variables = online(hub.url, home)
    with listening_server(
        tmp_path / "log", HUB_ID, "--revision", COMMIT, variables=variables
    ) as server:
        assert server.get("/info").status_code == 200
    assert_same_files(snapshot, demo_checkpoint)


@pytest.mark.parametrize(
    ("what", "words"), [("unwell", ["500"]), ("unreachable", []), ("serve", [])]
)
def test_a_hub_that_does_not_work_is_told_within_a_minute(
    failed_slowly: dict[str, "Future[subprocess.CompletedProcess[str]]"],
    what: str,
    words: list[str],
) -> None:
    assert_one_line(failed_slowly[what].result(), HUB_ID, *words)
