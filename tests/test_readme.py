"""The README tells the truth: its table is current and its examples run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from server.settings import Settings
from tests.settings_table import README, with_current_table

_TEXT = README.read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A demo server, started as the README says."""
    cache = tmp_path_factory.mktemp("cache")
    environ = os.environ | {"XDG_CACHE_HOME": str(cache), "HF_HOME": str(cache / "hub")}
    environ.pop("AZUREML_MODEL_DIR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "serve", "--port", "0"],
        env=environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    address = None
    for line in process.stdout:
        if found := re.search(r"listening on ([^\s\"]+)", line):
            address = found[1]
        if "ready after" in line:
            break
    assert address, "the server ended before it was ready"
    yield address
    process.terminate()
    process.communicate(timeout=30)


def test_the_settings_table_is_current() -> None:
    assert with_current_table(_TEXT) == _TEXT, "run python -m tests.settings_table"


def test_the_settings_table_has_every_setting() -> None:
    for name in Settings.model_fields:
        assert _TEXT.count(f"| `--{name.replace('_', '-')}` |") == 1, name


def test_the_curl_example_runs(endpoint: str) -> None:
    (script,) = _blocks("bash")
    done = subprocess.run(
        ["bash", "-ec", script], env=os.environ | {"ENDPOINT": endpoint},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"model_type":"chat-completions"' in done.stdout
    assert '"object":"chat.completion"' in done.stdout


def test_the_sdk_examples_run(endpoint: str, tmp_path: Path) -> None:
    """One after the other: the later ones use the first one's client."""
    script = "\n".join(_blocks("python"))
    Image.new("RGB", (320, 200), (30, 90, 160)).save(tmp_path / "chart.png")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"ENDPOINT": endpoint},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "chat-completions" in done.stdout
    assert "'completion_tokens': 32" in done.stdout
    assert "'paid': " in done.stdout
