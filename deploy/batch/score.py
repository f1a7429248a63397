"""An Azure ML batch endpoint's scoring script: files of OpenAI's batch lines through one server.

It runs in the Python of Azure ML's driver and needs only its standard library; `phi3v`, which it
calls, has a Python of its own. init() is called once in each of the driver's workers, run() with
the paths of a mini-batch's files.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

_START_S = 1800.0  # a cold mount is slow
_POLL_S = 0.5
# Unless PHI3V_MAX_REQUEST_S says otherwise. The server's own bound on Azure ML, 170 s, is for
# online endpoints: an answer that takes longer ends with what it has, and counts as answered.
_MAX_REQUEST_S = 3600
_SPARE_S = 60  # so that it is the server that ends it
_BATCH_SUFFIXES = (".jsonl", ".ndjson")
_DONE_WITH_FAILED_LINES = 1
# The command's last line, up to the output's name. A Python that breaks off has exit code 1, too.
_COUNTS = re.compile(r"(\d+ answered, \d+ failed(?:, \d+ answered before)?): .*\n\Z")

_server: "_Server | None" = None


def init() -> None:
    """Start the server and wait until it takes requests. Raises RuntimeError if it ends before."""
    global _server
    _server = _Server()
    _server.wait_until_ready()


def run(mini_batch: list[str]) -> list[str]:
    """Answer each file into a file of its own; → a line for each file, which is what Azure ML
    counts. Raises RuntimeError where a file cannot be gone on with: Azure ML then tries the
    mini-batch again, which asks only what was not answered."""
    if _server is None or _server.has_ended:
        init()
    assert _server is not None
    return [_answer(Path(path), _server) for path in mini_batch]


class _Server:
    """`phi3v serve` for as long as this process lives: a worker may be killed at any time."""

    def __init__(self) -> None:
        phi3v = shutil.which("phi3v")
        if phi3v is None:
            raise RuntimeError("phi3v is not on the PATH")
        self.phi3v = phi3v
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "PHI3V_MAX_REQUEST_S": str(_MAX_REQUEST_S),
            **os.environ,
            "PHI3V_API_KEY": secrets.token_hex(16),
            "PHI3V_NO_AUTH": "false",
        }
        self._process = subprocess.Popen(
            [
                *(Path(phi3v).with_name("python"), "-P", "-m", "server.batch.leashed_server"),
                *("serve", "--host", "127.0.0.1", "--port", str(port)),
            ],
            env=self.environment,
            stdin=subprocess.PIPE,  # its leash
        )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            if self.has_ended:
                raise RuntimeError("the server ended before it was ready: its log says why")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server was not ready after {_START_S:.0f} s")
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _answer(path: Path, server: _Server) -> str:
    if path.suffix.lower() not in _BATCH_SUFFIXES:
        return f"{path.name}: no batch file; it is read where a line names it"
    # Answers are appended here, as a mounted store may not append; a retry on this machine goes on.
    name = f"{path.stem}-{_digest(path)}.jsonl"
    part = Path(tempfile.gettempdir(), "phi3v-batch", name)
    part.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            *(server.phi3v, "batch", path, part, "--url", server.url),
            *("--concurrency", str(_setting("MAX_NUM_SEQS", 32) * _setting("DATA_PARALLEL", 1))),
            *("--timeout-s", str(float(server.environment["PHI3V_MAX_REQUEST_S"]) + _SPARE_S)),
        ],
        env=server.environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    counts = _COUNTS.search(done.stdout)
    if done.returncode not in (0, _DONE_WITH_FAILED_LINES) or counts is None:
        raise RuntimeError(f"{path.name} could not be answered: the log says why")
    output = Path(os.environ["AZUREML_BI_OUTPUT_PATH"])
    output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(part, output / f"{name}.part")
    os.replace(output / f"{name}.part", output / name)
    part.unlink()
    print(f"{path.name}: {counts[1]}", file=sys.stderr)
    return f"{name}: {counts[1]}"


def _digest(path: Path) -> str:
    """Of content and folder: files of one name in several folders stay apart, equal ones, too, as
    each has pictures of its own. The folder counts from its mount on, which may lie elsewhere on
    the machine that tries again."""
    folder = path.absolute().parent
    mount = next(place for place in (folder, *folder.parents) if place.is_mount())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(str(folder.relative_to(mount)).encode())
    return digest.hexdigest()[:12]


def _setting(name: str, default: int) -> int:
    """One of the server's, as deployment.yml gives it."""
    return int(os.environ.get(f"PHI3V_{name}", default))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
