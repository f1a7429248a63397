"""Workers whose servers do not start, on a node with a bad GPU or without the model say."""

import os
import shutil
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from server.ray.batch.attempts import Attempts

from ..commands.batch_files import line, started_batch, write_lines
from ..http.running_server import wait_until
from .test_batch import FLAGS, TIMEOUT_S, VARIABLES, Parts, workers_of, working


class WorkerLogs:
    """What a batch's workers have written to stderr, also those that have ended: Ray keeps it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._files: set[Path] = set()

    def text(self) -> str:
        for worker in workers_of(self._pid):
            with suppress(FileNotFoundError):  # it has just ended
                self._files.add(Path(os.readlink(f"/proc/{worker.pid}/fd/2")))
        return "".join(file.read_text() for file in self._files)


def after_a_death_without_the_model(
    demo_checkpoint: Path, folder: Path, then: Callable[[WorkerLogs, Path], None]
) -> tuple[int, str]:
    """A batch at one worker, which is killed at work when the model has just gone → exit code and
    stderr. then: gets the workers' logs and where the model was; it is there under another name."""
    model, source = folder / "model", folder / "in.jsonl"
    shutil.copytree(demo_checkpoint, model)
    write_lines(source, [line(f"l{n}", f"Say {n}", max_tokens=20) for n in range(300)])
    arguments = (str(source), str(folder / "out"), "--model", str(model), *FLAGS)
    with started_batch(*arguments, "--replicas", "1", **VARIABLES) as process:
        logs = WorkerLogs(process.pid)
        worker = wait_until(lambda: working(process.pid), TIMEOUT_S, "a worker is at work")
        assert "its server is ready" in logs.text()
        model.rename(folder / "gone")
        worker.send_signal(signal.SIGKILL)
        then(logs, model)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, stderr


def test_a_server_that_cannot_start_for_a_while_ends_no_batch(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    """A single failure did, though others had served."""

    def bring_back(logs: WorkerLogs, model: Path) -> None:
        wait_until(lambda: "; again in 2 s" in logs.text(), TIMEOUT_S, "a start has failed")
        (model.parent / "gone").rename(model)
        wait_until(lambda: logs.text().count("its server is ready") == 2, TIMEOUT_S, "one starts")

    code, stderr = after_a_death_without_the_model(demo_checkpoint, tmp_path, bring_back)
    assert code == 0, stderr
    assert len(Parts(tmp_path / "out").answers) == 300


def test_a_server_that_never_starts_again_ends_the_batch_and_names_the_node(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    code, stderr = after_a_death_without_the_model(demo_checkpoint, tmp_path, lambda *_: None)
    assert code == 2
    last = stderr.splitlines()[-1]
    assert last.startswith(f"phi3v: on {socket.gethostname()} (")
    assert "the batch's own server has ended" in last


def test_a_worker_is_started_again_only_so_often_and_only_where_servers_have_started() -> None:
    attempts = Attempts()
    assert attempts.server_failed("a") is None
    attempts.server_started("b")
    for _ in range(2):
        attempts.server_started("c")
        assert [attempts.server_failed("c") for _ in range(5)] == [2, 4, 8, 16, None]
    assert attempts.server_failed("b") == 2, "each worker for itself"
