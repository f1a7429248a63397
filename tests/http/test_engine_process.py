"""The server with its engine in a process of its own, as an operator and a caller see the two."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from .error_bodies import assert_error
from .event_streams import opened
from .running_server import (
    RunningServer,
    assert_well,
    listening_server,
    ready_server,
    wait_until,
)


def children(server: RunningServer, module: str) -> list[psutil.Process]:
    """The processes of that module that the server has started."""
    found = server.resources.children(recursive=True)
    return [process for process in found if module in process.cmdline()]


def engine_process(server: RunningServer) -> psutil.Process:
    (process,) = children(server, "scoring.engine_process")
    return process


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def server(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    with ready_server(logs / "process.log", demo_checkpoint, "--engine-process") as server:
        yield server


def test_a_killed_engine_breaks_streams_off_and_turns_liveness_red(server: RunningServer) -> None:
    engine = engine_process(server)
    with opened(server, "golden", max_tokens=8000) as running:
        running.take(3)
        engine.kill()
        start = time.monotonic()
        lines: list[str] = []
        with pytest.raises(httpx.RemoteProtocolError):
            lines.extend(running.lines)
        assert time.monotonic() - start < 1
    last = json.loads([line for line in lines if line][-1].removeprefix("data: "))
    assert (last["choices"], last["error"]["code"]) == ([], "engine_dead")
    for path in ("/health/live", "/health/ready"):
        assert server.get(path).status_code == 503
        assert server.get(path).json()["status"] == "dead"
    assert_error(server.ask("hi"), 503, "engine_dead")
    assert server.get("/info").status_code == 200
    assert "killed by SIGKILL" in server.log
    assert "Traceback" not in server.log
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0


def test_a_killed_server_takes_its_engine_along(server: RunningServer) -> None:
    engine = engine_process(server)
    with opened(server, "golden", max_tokens=8000) as running:
        running.take(3)
        server.process.kill()
        wait_until(lambda: has_ended(engine), 2, "the engine's process has ended")


def test_ctrl_c_at_a_terminal_drains_and_leaves_no_process(server: RunningServer) -> None:
    """It goes to every process of the group, the engine's too if it were in it."""
    engine = engine_process(server)
    assert_well(server)
    with opened(server, "golden", max_tokens=1500) as running:
        running.take(1)
        for process in (server.process, engine):
            process.send_signal(signal.SIGINT)
        running.take_rest()
        assert running.is_done
    server.process.wait(20)
    assert has_ended(engine)
    assert "Traceback" not in server.log


def test_an_engine_killed_while_it_loads_ends_the_server(demo_checkpoint: Path, logs: Path) -> None:
    with listening_server(logs / "killed.log", demo_checkpoint, "--engine-process") as server:
        engine_process(server).kill()
        assert server.process.wait(20) == 1
        assert "phi3v: the engine's process was killed by SIGKILL" in server.log
        assert "Traceback" not in server.log


def test_without_it_the_engine_is_a_thread(demo_checkpoint: Path, logs: Path) -> None:
    with ready_server(logs / "thread.log", demo_checkpoint, "--no-engine-process") as server:
        assert children(server, "scoring.engine_process") == []
        assert_well(server)
