"""A log that cannot be written does not stop the server."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .running_server import (
    PROJECT,
    Endpoint,
    assert_well,
    command,
    environment,
    wait_until,
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return int(trial.getsockname()[1])


@contextmanager
def unheard_server(
    checkpoint: Path, redirection: str
) -> Iterator[tuple[Endpoint, "subprocess.Popen[bytes]"]]:
    """Its standard output and error go where a shell's redirection says."""
    port = free_port()
    words = " ".join(command("serve", "--port", str(port), "--model", str(checkpoint)))
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {words} {redirection}"], cwd=PROJECT, env=environment()
    )
    server = Endpoint(f"http://127.0.0.1:{port}")

    def is_ready() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}"
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) != 0:
                return False
        return server.get("/health/ready").status_code == 200

    try:
        wait_until(is_ready, 60, "the server is ready")
        server.remember_golden()
        yield server, process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "redirection",
    [">/dev/full 2>&1", ">&- 2>&-", "<&- >&- 2>&-"],
    ids=["disk full", "closed", "all closed"],
)
def test_a_log_that_cannot_be_written_stops_nobody(demo_checkpoint: Path, redirection: str) -> None:
    with unheard_server(demo_checkpoint, redirection) as (server, process):
        # Else what is meant for the log would go to whoever has the next socket.
        streams = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (1, 2)]
        assert all(stream.startswith("/dev/") for stream in streams)
        assert server.ask("hi", max_tokens=4).status_code == 200
        assert server.ask("hi", max_tokens=-1).status_code == 422
        assert_well(server)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
