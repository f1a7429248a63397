"""SIGTERM: what runs may finish, nothing new begins, and the process ends well."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .event_streams import opened
from .running_server import RunningServer, listening_server, ready_server, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")


def exit_code(server: RunningServer, timeout_s: float) -> int:
    try:
        return server.process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pytest.fail(f"still running after {timeout_s:g} s:\n{server.log}")


def is_refused(server: RunningServer) -> bool:
    """Whether new connections are no longer taken."""
    try:
        server.get("/health/live")
    except httpx.TransportError:  # refused, or hung up on in the very moment
        return True
    return False


def test_a_running_stream_finishes_and_the_process_ends_with_0(
    demo_checkpoint: Path, logs: Path
) -> None:
    with ready_server(logs / "sigterm.log", demo_checkpoint) as server:
        helpers = server.resources.children(recursive=True)
        solo = server.text("golden", max_tokens=1000)
        with opened(server, "golden", max_tokens=1000) as running:
            running.take(1)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: is_refused(server), 5, "new connections are refused")
            assert server.process.poll() is None  # it waits for the stream
            running.take_rest()
        assert running.text == solo
        assert running.is_done
        assert exit_code(server, 20) == 0
        assert "Traceback" not in server.log
        assert [helper for helper in helpers if helper.is_running()] == []


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
            with pytest.raises(httpx.RemoteProtocolError):
                list(running.lines)
        assert exit_code(server, 20) == 0
