"""`phi3v doctor`: what it finds on machines that are well and on some that are not."""

import hashlib
import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .running_server import run_command
from .test_startup import huge_checkpoint, replace_header, truncate

NO_HUB = {"HF_HOME": "/proc/none"}


def doctor(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return run_command("doctor", *arguments, timeout_s=120, **{**NO_HUB, **variables})


def findings(result: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, Any]]:
    """By name; of several with one name the last."""
    assert "Traceback" not in result.stderr
    return {finding["name"]: finding for finding in json.loads(result.stdout)}


def failures(result: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    found = findings(result).values()
    assert result.returncode == any(finding["status"] == "failed" for finding in found)
    return {f["name"]: f["text"] for f in found if f["status"] == "failed"}


def test_a_machine_that_is_well_is_said_to_be(demo_checkpoint: Path) -> None:
    result = doctor("--json", "--port", "0", "--device", "cpu", "--model", str(demo_checkpoint))
    assert failures(result) == {}
    found = findings(result)
    assert {finding["status"] for finding in found.values()} <= {"ok", "warning"}
    assert "tensors" in found["weights"]["text"]
    assert "unknown" in found["hashes"]["text"]
    assert "cpu, float32" in found["engine"]["text"]
    assert " GiB of " in found["plan"]["text"]


def test_without_a_terminal_a_finding_is_a_line(demo_checkpoint: Path) -> None:
    result = doctor("--port", "0", "--device", "cpu", "--model", str(demo_checkpoint))
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    assert any("attention: " in line for line in lines)
    assert [line.split()[1] for line in lines].count("plan") == 4


def test_without_weights_the_demo_is_announced(tmp_path: Path) -> None:
    result = doctor("--json", "--port", "0", XDG_CACHE_HOME=str(tmp_path))
    assert failures(result) == {}
    assert "DEMO model" in findings(result)["weights"]["text"]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_port_in_use_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = failures(doctor("--json", "--port", str(port)))
    assert found.keys() == {"port"}
    assert f"127.0.0.1:{port}" in found["port"]
    assert "in use" in found["port"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "by its header"),
        (replace_header, "no safetensors header"),
        (lambda checkpoint: (checkpoint / "config.json").unlink(), "config.json"),
    ],
)
def test_weights_that_cannot_be_served_are_found(
    demo_checkpoint: Path, tmp_path: Path, damage: Any, words: str
) -> None:
    copy = Path(shutil.copytree(demo_checkpoint, tmp_path / "copy"))
    damage(copy)
    found = failures(doctor("--json", "--port", "0", "--model", str(copy)))
    assert found.keys() == {"weights"}
    assert words in found["weights"]


def test_weights_that_are_nowhere_are_found() -> None:
    found = failures(doctor("--json", "--port", "0", "--model", "/nowhere"))
    assert "/nowhere" in found["weights"]


def with_hashes(demo: Path, directory: Path) -> tuple[Path, Path]:
    """A download to a directory, with what the hub's library notes beside it; its weights."""
    shutil.copytree(demo, directory)
    (weights,) = directory.glob("*.safetensors")
    notes = directory / ".cache/huggingface/download" / f"{weights.name}.metadata"
    notes.parent.mkdir(parents=True)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    notes.write_text(f"{'0' * 40}\n{digest}\n1700000000.0\n")
    return directory, weights


def test_weights_are_held_to_the_hubs_hashes(demo_checkpoint: Path, tmp_path: Path) -> None:
    model, weights = with_hashes(demo_checkpoint, tmp_path / "model")
    arguments = ["--json", "--port", "0", "--device", "cpu", "--model", str(model)]
    good = findings(doctor(*arguments))["hashes"]
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    bad = failures(doctor(*arguments))
    assert good["status"] == "ok"
    assert "as on the hub" in good["text"]
    assert weights.name in bad["hashes"]


def test_too_little_memory_is_found_with_numbers(demo_checkpoint: Path, tmp_path: Path) -> None:
    model = huge_checkpoint(demo_checkpoint, tmp_path / "huge")
    result = doctor("--json", "--port", "0", "--device", "cpu", "--model", str(model))
    assert "the weights take 4096.00 GiB" in failures(result)["engine"]


def test_settings_that_cannot_be_are_found() -> None:
    found = failures(doctor("--json", "--max-num-seqs", "0"))
    assert "max_num_seqs is '0'" in found["settings"] or "max_num_seqs is 0" in found["settings"]
    found = failures(doctor("--json", "--port", "0", "--tls-cert", "no.pem", "--tls-key", "no.pem"))
    assert "no.pem" in found["settings"]


def test_serve_can_check_without_serving(demo_checkpoint: Path) -> None:
    arguments = ["serve", "--check", "--port", "0", "--device", "cpu", "--model"]
    assert run_command(*arguments, str(demo_checkpoint), timeout_s=120).returncode == 0
    refused = run_command(*arguments, "/nowhere", timeout_s=120)
    assert refused.returncode == 1
    assert "/nowhere" in refused.stdout


def test_every_setting_is_shown_with_its_origin_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_images = 3\nport = 6000\n")
    result = run_command(
        "serve", "--print-config", "--config", str(file), "--port", "7000",
        PHI3V_API_KEY="hush-hush", PHI3V_PORT="6500", AZUREML_MODEL_DIR="/mnt/model",
    )  # fmt: skip
    assert result.returncode == 0
    origins = {
        line.split("=")[0].strip(" #"): (line.partition("=")[2].split("#")[0].strip(), origin)
        for line in result.stdout.splitlines()
        for origin in [line.rsplit("# ", 1)[1]]
    }
    assert origins["port"] == ("7000", "flag")
    assert origins["max_images"] == ("3", "file")
    assert origins["api_key"] == ('"********"', "variable")
    assert origins["model"] == ('"/mnt/model"', "AZUREML_MODEL_DIR")
    assert origins["max_request_s"] == ("170.0", "AZUREML_MODEL_DIR")
    assert origins["drain_s"] == ("25", "default")
    assert "hush-hush" not in result.stdout + result.stderr


def test_the_version_is_printed() -> None:
    result = run_command("version")
    assert result.stdout.startswith("phi3v-server 0.")
