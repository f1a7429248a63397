"""README and docs tell the truth: links lead somewhere, the table is current, the examples run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from server.settings import Settings
from tests.clients.node import SCRIPTS, node
from tests.settings_table import PAGE, with_current_table

PROJECT = PAGE.parent.parent
# Those whose examples are run, in this order: the later ones use what the earlier ones made.
README, CLIENTS, API = (PROJECT / n for n in ("README.md", "docs/clients.md", "docs/api.md"))
OTHERS = ("SECURITY.md", "CHANGELOG.md", "scoring/demo/README.md")
TEXTS = [*(PROJECT / n for n in OTHERS), README, *sorted((PROJECT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


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


def run(command: list[str], endpoint: str, directory: Path = PROJECT) -> str:
    done = subprocess.run(
        command, cwd=directory, env=os.environ | {"ENDPOINT": endpoint},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A directory with the picture that the examples ask about."""
    Image.new("RGB", (320, 200), (30, 90, 160)).save(tmp_path / "chart.png")
    return tmp_path


def test_the_settings_table_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_current_table(text) == text, "run python -m tests.settings_table"


def test_the_settings_table_has_every_setting() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in Settings.model_fields:
        assert text.count(f"| `--{name.replace('_', '-')}` |") == 1, name


@pytest.mark.parametrize("page", [README, CLIENTS], ids=lambda page: page.name)
def test_the_curl_examples_run(endpoint: str, tmp_path: Path, page: Path) -> None:
    (script,) = blocks(page, "bash")
    assert '"object":"chat.completion"' in run(["bash", "-ec", script], endpoint, tmp_path)


def test_the_readmes_python_example_is_answered_right(endpoint: str) -> None:
    (script,) = blocks(README, "python")
    assert run([sys.executable, "-c", script], endpoint) == "The highest bar is Q1."


def test_the_python_examples_run(endpoint: str, chart: Path) -> None:
    """One after the other: the later ones use the first one's client."""
    script = "\n".join([*blocks(CLIENTS, "python"), *blocks(API, "python")])
    told = run([sys.executable, "-c", script], endpoint, chart)
    assert "chat-completions" in told
    assert "'completion_tokens': " in told
    assert "'paid': " in told


@pytest.mark.parametrize("page", [README, CLIENTS], ids=lambda page: page.name)
def test_the_javascript_examples_run(endpoint: str, tmp_path: Path, page: Path) -> None:
    (script,) = blocks(page, "javascript")
    (tmp_path / "node_modules").symlink_to(SCRIPTS / "node_modules")
    (tmp_path / "example.mjs").write_text(script)
    assert run([node(), "example.mjs"], endpoint, tmp_path)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    links = re.findall(r"\]\(([^)#\s]+)", text)
    links += re.findall(r'(?:src|srcset|href)="([^"#]+)', text)
    for link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_the_documentation_builds_as_a_site(tmp_path: Path) -> None:
    """Strictly: a link or anchor that leads nowhere fails, and a page that is not in the menu."""
    options = [
        "--quiet",
        "--config-file",
        str(PROJECT / "mkdocs.yml"),
        "--site-dir",
        str(tmp_path / "site"),
    ]
    run([sys.executable, "-m", "mkdocs", "build", *options], "", tmp_path)
    pages = {path.with_suffix(".md").name for path in (tmp_path / "site").glob("*.html")}
    assert pages - {"404.md"} == {path.name for path in (PROJECT / "docs").glob("*.md")}
