"""SIGTERM: what runs may finish, nothing new begins, and the process ends well."""

import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from .error_bodies import assert_error
from .event_streams import opened
from .running_server import RunningServer, listening_server, ready_server, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")


def exit_code(server: RunningServer, timeout_s: float) -> int:
    try:
        return server.process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pytest.fail(f"still running after {timeout_s:g} s:\n{server.log}")


def is_draining(server: RunningServer) -> httpx.Response | None:
    """What the readiness probe says, if that is it."""
    ready = server.get("/health/ready")
    return ready if ready.json()["status"] == "draining" else None


def test_a_running_stream_finishes_and_the_process_ends_with_0(
    demo_checkpoint: Path, logs: Path
) -> None:
    """While it does, probes hear that no more is taken, and callers when to try again."""
    with ready_server(logs / "sigterm.log", demo_checkpoint) as server:
        helpers = server.resources.children(recursive=True)
        solo = server.text("golden", max_tokens=1000)
        with opened(server, "golden", max_tokens=1000) as running:
            running.take(1)
            server.process.send_signal(signal.SIGTERM)
            ready = wait_until(lambda: is_draining(server), 5, "it is not ready any more")
            assert ready.status_code == 503
            assert server.get("/health/live").status_code == 200
            refused = server.ask("golden")
            assert_error(refused, 503, "not_ready")
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["connection"] == "close"
            assert server.process.poll() is None  # it waits for the stream
            running.take_rest()
        assert running.text == solo
        assert running.is_done
        assert exit_code(server, 20) == 0
        assert "Traceback" not in server.log
        assert [helper for helper in helpers if helper.is_running()] == []


def test_an_idle_server_ends_at_once(demo_checkpoint: Path, logs: Path) -> None:
    with ready_server(logs / "sigterm-idle.log", demo_checkpoint) as server:
        server.process.send_signal(signal.SIGTERM)
        assert exit_code(server, 5) == 0


def test_a_second_signal_ends_the_process_whatever_runs(demo_checkpoint: Path, logs: Path) -> None:
    with ready_server(logs / "sigterm-twice.log", demo_checkpoint) as server:
        helpers = server.resources.children(recursive=True)
        with opened(server, "golden", max_tokens=8000) as running:
            running.take(1)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: is_draining(server), 5, "it drains")
            server.process.send_signal(signal.SIGTERM)
            assert exit_code(server, 2) == 128 + signal.SIGTERM
        wait_until(lambda: not any(h.is_running() for h in helpers), 5, "its helpers are gone")


def test_a_loading_server_ends_without_waiting_for_its_weights(
    demo_checkpoint: Path, logs: Path
) -> None:
    with listening_server(logs / "sigterm-loading.log", demo_checkpoint) as server:
        helpers = server.resources.children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        assert exit_code(server, 20) == 0
        assert "Traceback" not in server.log
        assert [helper for helper in helpers if helper.is_running()] == []


def test_a_stream_that_takes_longer_than_the_drain_is_cut_off(
    demo_checkpoint: Path, logs: Path
) -> None:
    with ready_server(logs / "sigterm-cut.log", demo_checkpoint, "--drain-s", "1") as server:
        with opened(server, "golden", max_tokens=8000) as running:
            running.take(1)
            server.process.send_signal(signal.SIGTERM)
            lines = []
            with pytest.raises(httpx.RemoteProtocolError):
                lines.extend(running.lines)
        (error,) = [line for line in lines if '"error"' in line]
        assert '"not_ready"' in error
        assert not any("[DONE]" in line for line in lines)
        assert exit_code(server, 20) == 0


def test_no_moment_of_a_signal_truncates_a_stream(demo_checkpoint: Path, logs: Path) -> None:
    """Six servers, each with three streams, are told to end at random moments."""

    def answer(server: RunningServer, is_begun: threading.Event) -> str:
        with opened(server, "golden", max_tokens=300) as running:
            running.take(1)
            is_begun.set()
            running.take_rest()
        assert running.is_done
        return running.text

    def one_round(number: int) -> tuple[str, set[str]]:
        moment = random.Random(number).uniform(0, 0.5)
        log = logs / f"sigterm-random-{number}.log"
        with ready_server(log, demo_checkpoint) as server, ThreadPoolExecutor(3) as callers:
            solo = server.text("golden", max_tokens=300)
            begun = [threading.Event() for _ in range(3)]
            answers = [callers.submit(answer, server, event) for event in begun]
            assert all(event.wait(30) for event in begun)
            time.sleep(moment)
            server.process.send_signal(signal.SIGTERM)
            texts = {answer.result(60) for answer in answers}
            assert exit_code(server, 20) == 0
        return solo, texts

    with ThreadPoolExecutor(2) as rounds:
        for solo, texts in rounds.map(one_round, range(6)):
            assert texts == {solo}
