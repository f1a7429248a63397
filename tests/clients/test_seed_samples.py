"""Every Python and JavaScript sample of the published how-to runs, changed only where
docs/seed-samples.md says so, and each of those changes is needed."""

import os
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import trustme

from ..http.parrot import ParrotServer
from ..http.pictures import colourful, encoded
from .conftest import KEY
from .node import SCRIPTS, node
from .own_venv import azure_python, python_with
from .rechunking_proxy import rechunked
from .seed import Correction, blocks, corrected, corrections

QUESTION = "How many languages are in the world?"
CHART_QUESTION = "Which conclusion can be extracted from the following chart?"
PUBLISHED_PICTURE = (
    "https://news.microsoft.com/source/wp-content/uploads/2024/04/"
    "The-Phi-3-small-language-models-with-big-potential-1-1900x1069.jpg"
)
VERSIONS = ["1.0.0b1", "1.0.0b9"]
PYTHON = {version: ["Python", f"Python, azure-ai-inference {version}"] for version in VERSIONS}
BETWEEN = "=== the next sample ==="
BROWSER = "globalThis.document = { createElement: () => ({}), body: { appendChild() {} } };\n"


@dataclass(frozen=True)
class Surroundings:
    """What the samples expect to find."""

    directory: Path
    environment: dict[str, str]
    picture_url: str

    def run(
        self, command: str | Path, script: str, suffix: str
    ) -> "subprocess.CompletedProcess[str]":
        """The script by the command, which tells a language by its file's suffix."""
        file = self.directory / f"sample{suffix}"
        file.write_text(script.replace(PUBLISHED_PICTURE, self.picture_url), encoding="utf-8")
        return subprocess.run(
            [command, file],
            cwd=self.directory,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@contextmanager
def picture_host(directory: Path) -> Iterator[str]:
    """The address of a picture, a JPEG, on a server."""
    (directory / "chart.jpg").write_bytes(encoded(colourful(), "JPEG"))
    handler = partial(_QuietHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/chart.jpg"
        server.shutdown()
        thread.join()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def surroundings(
    parrot: ParrotServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Surroundings]:
    """A model that repeats the question, behind https and the proxy that cuts answers."""
    directory = tmp_path_factory.mktemp("samples")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    tls = _server_context(authority)
    # Node finds packages in the folders above a script.
    (directory / "node_modules").symlink_to(SCRIPTS / "node_modules")
    with rechunked(parrot.base_url, tls) as endpoint, picture_host(directory) as picture_url:
        environment = {
            "AZURE_INFERENCE_ENDPOINT": endpoint,
            "AZURE_INFERENCE_CREDENTIAL": KEY,
            "REQUESTS_CA_BUNDLE": str(directory / "authority.pem"),
            "NODE_EXTRA_CA_CERTS": str(directory / "authority.pem"),
        }
        yield Surroundings(directory, environment, picture_url)


def _server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def without(changes: list[Correction], left_out: Correction | None) -> list[Correction]:
    return [change for change in changes if change != left_out]


# Python


def interpreter(version: str) -> Path:
    return python_with(*azure_python(version))


def python_script(shared: Path, version: str, left_out: Correction | None = None) -> str:
    """All samples in a row, as a reader goes through them, but for the client with Entra ID."""
    samples = blocks(shared / "seed.md", "python", "python")
    samples = corrected(samples, without(corrections(*PYTHON[version]), left_out))
    samples = [sample for sample in samples if "DefaultAzureCredential" not in sample]
    return f"print('{BETWEEN}')\n".join(samples)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_python_samples_run(surroundings: Surroundings, shared: Path, version: str) -> None:
    done = surroundings.run(interpreter(version), python_script(shared, version), ".py")
    assert done.returncode == 0, done.stderr
    printed = [part.strip() for part in done.stdout.split(BETWEEN)]
    assert len(printed) == 13
    assert [part.splitlines()[0] for part in printed if part][:2] == [
        f"Response: {QUESTION}",
        QUESTION,  # streamed
    ]
    assert "Model: phi3v-demo" in printed[3]
    assert "'total_tokens': " in printed[3]
    assert CHART_QUESTION in printed[-1]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_python_sample_with_entra_id_makes_its_client(
    surroundings: Surroundings, shared: Path, version: str
) -> None:
    (sample,) = (
        sample
        for sample in blocks(shared / "seed.md", "python", "python")
        if "DefaultAzureCredential" in sample
    )
    done = surroundings.run(interpreter(version), f"{sample}\nprint(type(model).__name__)", ".py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ChatCompletionsClient"


@pytest.mark.parametrize(
    ("version", "left_out"),
    [
        pytest.param(version, change, id=f"{version}: {change.name}")
        for version in VERSIONS
        for change in corrections(*PYTHON[version])
    ],
)
def test_each_change_to_the_python_samples_is_needed(
    surroundings: Surroundings, shared: Path, version: str, left_out: Correction
) -> None:
    script = python_script(shared, version, left_out)
    assert surroundings.run(interpreter(version), script, ".py").returncode == 1


# JavaScript


def javascript_module(shared: Path, left_out: Correction | None = None) -> str:
    """All samples in a row, but for the client with Entra ID."""
    samples = blocks(shared / "seed.md", "javascript", "javascript")
    samples = corrected(samples, without(corrections("JavaScript"), left_out))
    samples = [sample for sample in samples if "DefaultAzureCredential" not in sample]
    return BROWSER + f"console.log('{BETWEEN}');\n".join(samples)


def is_right(done: "subprocess.CompletedProcess[str]") -> bool:
    """The samples ran to their end, and those that print have printed the answers."""
    if done.returncode:
        return False
    printed = [part.strip() for part in done.stdout.split(BETWEEN)]
    streamed = "".join(printed[5].split())  # each piece on a line of its own
    return (
        len(printed) == 12
        and printed[3].startswith(f"{QUESTION}\nphi3v-demo\n{{")
        and streamed == "".join(QUESTION.split())
        and printed[11].startswith("assistant: ")
        and CHART_QUESTION in printed[11]
        and re.search(r"Model: phi3v-demo\nusage: \{", printed[11]) is not None
    )


def test_the_javascript_samples_run(surroundings: Surroundings, shared: Path) -> None:
    done = surroundings.run(node(), javascript_module(shared), ".mjs")
    assert is_right(done), done.stdout


def test_the_javascript_sample_with_entra_id_makes_its_client(
    surroundings: Surroundings, shared: Path
) -> None:
    (sample,) = (
        sample
        for sample in blocks(shared / "seed.md", "javascript", "javascript")
        if "DefaultAzureCredential" in sample
    )
    done = surroundings.run(node(), f"{sample}\nconsole.log(typeof client.path);", ".mjs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "function"


@pytest.mark.parametrize("left_out", corrections("JavaScript"), ids=lambda change: change.name)
def test_each_change_to_the_javascript_samples_is_needed(
    surroundings: Surroundings, shared: Path, left_out: Correction
) -> None:
    assert not is_right(surroundings.run(node(), javascript_module(shared, left_out), ".mjs"))


# The document


def test_the_document_has_no_other_changes_and_a_reason_for_each() -> None:
    known = {section for sections in PYTHON.values() for section in sections}
    for change in corrections():
        assert change.section in known | {"JavaScript", "REST"}
        assert len(change.reason) > 40, change.name
        assert change.old != change.new, change.name
