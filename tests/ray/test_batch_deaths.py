"""Lines that workers die of: told to be such after a bounded number of deaths, while their
neighbours are answered."""

import signal
import subprocess
import time
from pathlib import Path

from server.ray.batch.attempts import Attempts

from ..commands.batch_files import line, started_batch, write_lines
from ..http.running_server import wait_until
from .test_batch import FLAGS, TIMEOUT_S, VARIABLES, Parts, num_running, workers_of

# A task of Ray's holds all blocks, as it holds several in a batch of more than 4,096.
ONE_TASK = """
from server.cli import app
from server.ray.batch import whole_batch
whole_batch._TASKS = 1
app()
"""
# In company, without other blocks, and twice alone.
_DEATHS = 4


class Killer:
    """Kills a worker each time it has had a single line for half a second: the slow one, as others
    are answered in a moment."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.killed: list[int] = []
        self._process = process
        self._busy_since: dict[int, float] = {}

    def kill(self, num_times: int) -> None:
        for _ in range(num_times):
            wait_until(self._kills, TIMEOUT_S, "a worker has the slow line")

    def _kills(self) -> bool:
        for worker in workers_of(self._process.pid):
            if worker.pid in self.killed:
                continue
            if num_running(worker) != 1:
                self._busy_since.pop(worker.pid, None)
            elif time.monotonic() - self._busy_since.setdefault(worker.pid, time.monotonic()) > 0.5:
                self.killed.append(worker.pid)
                worker.send_signal(signal.SIGKILL)
                return True
        return False


def test_an_ended_block_keeps_its_lines_deaths() -> None:
    attempts = Attempts()
    attempts.begin("b")
    for number in (1, 2, 2, 3):
        attempts.begin_line("b", number)
    attempts.end_line("b", 3)
    assert attempts.of("b") == (1, {1: 1, 2: 2})
    attempts.end("b")
    assert attempts.of("b") == (0, {1: 1, 2: 2})
    assert attempts.of("other") == (0, {})


def test_a_line_that_workers_die_of_is_told_and_its_neighbours_are_answered(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    slow = line("slow", "Say much", max_tokens=8000)
    write_lines(source, [line("a", "hi", max_tokens=1), slow, line("c", "hi", max_tokens=1)])
    arguments = (str(source), str(output), "--model", str(demo_checkpoint), *FLAGS)
    with started_batch(*arguments, "--replicas", "1", **VARIABLES) as process:
        Killer(process).kill(_DEATHS)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 1, stderr
    parts = Parts(output)
    assert sorted(one["custom_id"] for one in parts.answers) == ["a", "c"]
    (failure,) = parts.failures
    assert (failure["custom_id"], failure["error"]["code"]) == ("slow", "worker_died")


def test_a_task_of_two_blocks_does_not_ask_the_firsts_slow_line_anew(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    """A task begins again at its first block when a worker dies over its second. The deaths of an
    ended block were forgotten: k such lines in one task took 4**k - 1 workers."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in "ab":
        slow = line(f"slow-{name}", "Say much", max_tokens=8000)
        write_lines(source / f"{name}.jsonl", [slow, line(name, "hi", max_tokens=1)])
    arguments = (str(source), str(output), "--model", str(demo_checkpoint), *FLAGS)
    arguments = (*arguments, "--replicas", "1")
    with started_batch(*arguments, program=("-c", ONE_TASK), **VARIABLES) as process:
        Killer(process).kill(2 * _DEATHS)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 1, stderr
    parts = Parts(output)
    assert sorted(one["custom_id"] for one in parts.answers) == ["a", "b"]
    assert {one["error"]["code"] for one in parts.failures} == {"worker_died"}
    assert len(parts.failures) == 2
