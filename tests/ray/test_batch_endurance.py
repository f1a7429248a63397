"""Many lines, some of them poison, while workers are killed: nothing is lost, nothing is double,
and memory does not grow with the lines."""

import signal
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ..commands.batch_files import line, started_batch, write_lines
from ..http.running_server import wait_until
from .test_batch import FLAGS, TIMEOUT_S, VARIABLES, Parts, workers_of, working

_MIB = 1 << 20
# What a process's peak may differ by between two runs of the same size.
_NOISE = 64 * _MIB
# A worker that held all the lines it has had would have twice as much.
_NOTE = "x" * 60_000


class _Peaks:
    """The most memory in bytes that the driver had, and that any worker had, asked a few times a
    second."""

    def __init__(self, driver: psutil.Process) -> None:
        self.driver = self.worker = 0
        self._driver = driver
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.3):
            with suppress(psutil.NoSuchProcess):  # it has just ended
                self.driver = max(self.driver, self._driver.memory_info().rss)
                for worker in workers_of(self._driver.pid):
                    self.worker = max(self.worker, worker.memory_info().rss)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def _large_line(number: int) -> dict[str, Any]:
    """With what a message may have, and no server looks at."""
    large = line(f"l{number}", f"Say {number}", max_tokens=2)
    large["body"]["messages"][0]["note"] = _NOTE
    return large


def _run(model: Path, folder: Path, num_lines: int, num_kills: int) -> _Peaks:
    """A batch with one line of a hundred wrong in one of four ways, and workers killed at work."""
    folder.mkdir()
    source, output = folder / "in.jsonl", folder / "out"
    bad = {number for number in range(num_lines) if number % 100 == 50}

    def poison(number: int) -> dict[str, Any]:
        picture = {"type": "image_url", "image_url": {"url": "missing.png"}}
        return (
            line(f"l{number}", "hi", max_tokens=-1),
            line(f"l{number}", [{"type": "text", "text": "What?"}, picture]),
            {"custom_id": f"l{number}", "method": "GET"},
            line(f"l{number}", "word " * 20_000),
        )[number // 100 % 4]

    write_lines(
        source,
        (poison(number) if number in bad else _large_line(number) for number in range(num_lines)),
    )
    arguments = (str(source), str(output), "--model", str(model), *FLAGS)
    killed: list[psutil.Process] = []

    with started_batch(*arguments, **VARIABLES) as process:
        peaks = _Peaks(psutil.Process(process.pid))
        for kill in range(num_kills):
            parts = 10 * (kill + 1)
            wait_until(
                lambda parts=parts: len(list(output.glob("part-*"))) >= parts, TIMEOUT_S, "parts"
            )
            killed.append(
                wait_until(lambda: working(process.pid, killed), TIMEOUT_S, "a worker is at work")
            )
            killed[-1].send_signal(signal.SIGKILL)
            wait_until(lambda: not killed[-1].is_running(), TIMEOUT_S, "it is dead")
        _, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 1, stderr
        peaks.stop()
    source.unlink()
    parts = Parts(output)
    assert parts.ids == Counter({f"l{number}": 1 for number in range(num_lines)})
    assert {one["custom_id"] for one in parts.failures} == {f"l{number}" for number in bad}
    return peaks


def test_five_thousand_lines_with_poison_and_two_workers_killed(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    few = _run(demo_checkpoint, tmp_path / "few", 500, 0)
    many = _run(demo_checkpoint, tmp_path / "many", 5000, 2)
    for who in ("driver", "worker"):
        before, after = getattr(few, who), getattr(many, who)
        figures = f"{who}: {before / _MIB:.0f} MiB for 500 lines, {after / _MIB:.0f} for 5,000"
        assert before > 0, who
        assert after < before + _NOISE, figures
