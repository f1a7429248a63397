"""deploy.sh and its kin: shellcheck, the smoke test beside a real server, and the order of what
Azure is told, which is written down by a stand-in for the `az` command."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.http.running_server import RunningServer, ready_server

from .dockerfile import PROJECT, last_stage
from .test_image import bin_of

DEPLOY = PROJECT / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
# What there is in Azure lies in files: traffic.COLOR, and deployment.COLOR for one that exists.
AZ = """#!/usr/bin/env bash
echo "$*" >> "$AZ_STATE/calls"
argument() { while [ $# -gt 1 ]; do if [ "$1" = "$key" ]; then echo "$2"; return; fi; shift; done; }
key=--name; name=$(argument "$@")
case "$*" in
    "ml online-endpoint show"*traffic.*)
        color=$(sed 's/.*traffic.\\([a-z]*\\).*/\\1/' <<< "$*")
        cat "$AZ_STATE/traffic.$color" 2>/dev/null || echo 0 ;;
    "ml online-endpoint show"*scoring_uri*) echo "$SERVER/score" ;;
    "ml online-endpoint show"*) [ -e "$AZ_STATE/endpoint" ] ;;
    "ml online-endpoint create"*) touch "$AZ_STATE/endpoint" ;;
    "ml online-endpoint get-credentials"*) echo a-key ;;
    "ml online-endpoint update"*)
        key=--traffic
        for share in $(argument "$@"); do
            echo "${share#*=}" > "$AZ_STATE/traffic.${share%=*}"
        done ;;
    "ml online-deployment show"*--query\\ id*) echo "/subscriptions/s/deployments/$name" ;;
    "ml online-deployment show"*) [ -e "$AZ_STATE/deployment.$name" ] ;;
    "ml online-deployment create"*) touch "$AZ_STATE/deployment.$name" ;;
    "ml online-deployment delete"*) rm "$AZ_STATE/deployment.$name" ;;
esac
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server(
    demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("logs") / "smoke.log"
    with ready_server(log, demo_checkpoint, api_key="a-key") as server:
        yield server


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    """An Azure without anything in it."""
    (tmp_path / "bin").mkdir()
    for name, text in {"az": AZ, "make": "#!/bin/sh\nexit 0\n"}.items():
        file = tmp_path / "bin" / name
        file.write_text(text)
        file.chmod(0o755)
    return tmp_path


@pytest.fixture
def run(azure: Path, server: RunningServer) -> Run:
    def run(script: str, *arguments: str, url: str = server.base_url) -> object:
        (azure / "calls").unlink(missing_ok=True)
        environ = os.environ | {
            "PATH": f"{azure / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "AZ_STATE": str(azure),
            "SERVER": url,
            "PYTHON": sys.executable,
        }
        return subprocess.run(
            [str(DEPLOY / script), *arguments],
            env=environ, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return run


def calls(azure: Path) -> list[str]:
    """What Azure was told to do, questions left out."""
    lines = (azure / "calls").read_text().splitlines()
    return [line.removeprefix("ml ") for line in lines if " show" not in line]


def traffic(azure: Path) -> dict[str, int]:
    files = azure.glob("traffic.*")
    return {file.suffix[1:]: int(file.read_text()) for file in files}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = subprocess.run(
        [bin_of("shellcheck"), str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


def test_the_first_deployment_gets_the_traffic_after_its_test(azure: Path, run: Run) -> None:
    done = run("deploy.sh")
    assert done.returncode == 0, done.stderr
    assert "all is well" in done.stdout
    made = [call.split(" --")[0] for call in calls(azure)]
    assert made == [
        "environment create",
        "online-endpoint create",
        "online-deployment create",
        "online-endpoint get-credentials",
        "online-endpoint update",
    ]
    assert traffic(azure) == {"blue": 100}


def test_the_next_one_stands_beside_the_first_and_can_be_rolled_back(azure: Path, run: Run) -> None:
    assert run("deploy.sh").returncode == 0
    assert run("deploy.sh", "deploy/deployment-h100.yml").returncode == 0
    assert any("--name green --file deploy/deployment-h100.yml" in c for c in calls(azure))
    assert traffic(azure) == {"blue": 0, "green": 100}
    assert run("deploy.sh", "rollback").returncode == 0
    assert traffic(azure) == {"blue": 100, "green": 0}
    done = run("deploy.sh")
    assert done.returncode == 0, done.stderr
    (deployed,) = [call for call in calls(azure) if call.startswith("online-deployment")]
    assert deployed.startswith("online-deployment update"), "green is there already"
    assert run("deploy.sh", "cleanup").returncode == 0
    assert not (azure / "deployment.blue").exists()
    assert (azure / "deployment.green").exists()


def test_one_that_does_not_answer_gets_no_traffic(azure: Path, run: Run) -> None:
    assert run("deploy.sh").returncode == 0
    done = run("deploy.sh", url="http://127.0.0.1:9")
    assert done.returncode != 0
    assert "the traffic stays where it is" in done.stderr
    assert traffic(azure) == {"blue": 100}
    assert calls(azure)[-1].startswith("online-deployment get-logs")


def test_nothing_is_done_to_a_deployment_that_has_a_part_of_the_traffic(
    azure: Path, run: Run
) -> None:
    """Split by hand: there is no spare one to update, to delete or to roll back to."""
    assert run("deploy.sh").returncode == 0
    assert run("deploy.sh").returncode == 0
    for share in (50, 10, 90):
        (azure / "traffic.blue").write_text(f"{share}\n")
        (azure / "traffic.green").write_text(f"{100 - share}\n")
        for arguments in ([], ["rollback"], ["cleanup"]):
            done = run("deploy.sh", *arguments)
            assert done.returncode != 0
            assert "both have traffic" in done.stderr
            assert "no other" not in done.stderr
            assert not [call for call in calls(azure) if call.startswith("online-")]


def test_nothing_is_done_while_azure_does_not_say_who_has_the_traffic(
    azure: Path, run: Run
) -> None:
    """An answer that does not come is not the answer that there is no traffic."""
    assert run("deploy.sh").returncode == 0
    az = azure / "bin" / "az"
    az.write_text(
        az.read_text().replace(
            'echo "$*" >>', 'case "$*" in *traffic.*) exit 1;; esac\necho "$*" >>', 1
        )
    )
    for arguments in ([], ["rollback"], ["cleanup"]):
        assert run("deploy.sh", *arguments).returncode != 0
        told = calls(azure) if (azure / "calls").exists() else []
        assert not [call for call in told if call.startswith("online-")]


def test_without_another_deployment_nothing_is_rolled_back_or_deleted(
    azure: Path, run: Run
) -> None:
    for _ in range(2):
        for command in ("rollback", "cleanup"):
            done = run("deploy.sh", command)
            assert done.returncode != 0
            assert "there is no other deployment" in done.stderr
            assert calls(azure) == []
        assert run("deploy.sh").returncode == 0
        (azure / "deployment.green").unlink(missing_ok=True)


def test_autoscaling_adds_early_and_removes_late(azure: Path, run: Run) -> None:
    done = run("autoscale.sh", "blue", "5")
    assert done.returncode == 0, done.stderr
    create, out, back = calls(azure)
    assert "--resource /subscriptions/s/deployments/blue --min-count 1 --max-count 5" in create
    assert "--scale out 1" in out
    assert "GpuUtilizationPercentage > 70" in out
    assert "--scale in 1" in back


def test_the_smoke_test_fails_for_a_wrong_key(server: RunningServer) -> None:
    command = [sys.executable, str(DEPLOY / "smoke_test.py"), server.base_url, "--key", "wrong"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("failed: ")
    assert "Traceback" not in done.stderr


def test_the_units_caches_lie_where_the_images_do() -> None:
    """Neither has a home to keep them in; the hub's lies in XDG_CACHE_HOME by itself."""
    unit = (DEPLOY / "phi3v.service").read_text()
    lines = re.findall(r"^Environment=(.*)$", unit, re.MULTILINE)
    found = dict(pair.split("=", 1) for line in lines for pair in line.split())
    image = last_stage().environment
    assert {name: found.get(name) for name in image if "CACHE" in name} == {
        name: value for name, value in image.items() if "CACHE" in name
    }
    assert "CacheDirectory=phi3v" in unit


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "phi3v.service").read_text()
    program = tmp_path / "phi3v"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / "phi3v.service"
    # The user is made when it is installed.
    unit = unit.replace("User=phi3v\n", "User=nobody\n")
    copy.write_text(unit.replace("/opt/phi3v/bin/phi3v", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Unknown" not in done.stderr, done.stderr
