"""The servers that benchmarks start for themselves: a real one, and those that come to nothing."""

import json
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from benchmark.own_server import OwnServer
from scoring.demo_model import DEMO


def ask(url: str) -> dict:
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_a_server_is_started_asked_and_stopped(monkeypatch):
    """It waited for the address on stderr, where logs no longer go, and for ever. A user's own
    settings would have kept it from answering, too."""
    monkeypatch.setenv("PHI3V_API_KEY", "the user's own")

    with OwnServer(DEMO) as server:
        answer = ask(server.url)
        assert psutil.pid_exists(server.pid)

    assert answer["choices"][0]["message"]["content"]
    assert not psutil.pid_exists(server.pid)


def test_a_server_that_cannot_start_ends_the_benchmark_with_its_last_words(tmp_path):
    with pytest.raises(SystemExit, match=r"(?s)did not get ready.*config\.json"):
        OwnServer(tmp_path)


def test_a_server_that_takes_too_long_is_not_waited_for():
    start = time.monotonic()

    with pytest.raises(SystemExit, match="did not get ready in 0 s"):
        OwnServer(DEMO, start_s=0.2)

    assert time.monotonic() - start < 60


def test_a_server_that_dies_ends_the_benchmark():
    def measure(server: OwnServer) -> None:
        process = psutil.Process(server.pid)
        process.kill()
        psutil.wait_procs([process], 30)
        ask(server.url)

    with pytest.raises(SystemExit, match="the server has ended"), OwnServer(DEMO) as server:
        measure(server)


def test_the_figures_need_nothing_beside_the_repository():
    """They read ../shared, which is no part of it."""
    root = Path(__file__).resolve().parents[2] / "benchmark"
    # Its parity does with our own reference where the published outputs are not at hand.
    may = {root / "gpu_check" / "__main__.py"}

    found = {file for file in root.rglob("*.py") if '"shared"' in file.read_text()}

    assert found <= may
