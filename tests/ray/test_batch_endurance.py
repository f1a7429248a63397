"""Many lines, some of them poison, while workers are killed: nothing is lost, nothing is double,
and memory does not grow with the lines."""

import signal
import threading
from collections import Counter
from pathlib import Path

import psutil

from ..commands.batch_files import line, started_batch, write_lines
from ..http.running_server import wait_until
from .test_batch import FLAGS, TIMEOUT_S, VARIABLES, Parts, workers_of

_MIB = 1 << 20
# What the driver's own peak may differ by between two runs of the same size.
_NOISE = 64 * _MIB


class _Peak:
    """The most memory that a process had, asked ten times a second."""

    def __init__(self, process: psutil.Process) -> None:
        self.num_bytes = 0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            try:
                self.num_bytes = max(self.num_bytes, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self.num_bytes


def _run(model: Path, folder: Path, num_lines: int, num_kills: int) -> int:
    """A batch with one line of a hundred wrong in one of four ways → the driver's peak in bytes."""
    folder.mkdir()
    source, output = folder / "in.jsonl", folder / "out"
    bad = {number for number in range(num_lines) if number % 100 == 50}

    def poison(number: int) -> dict[str, object] | str:
        picture = {"type": "image_url", "image_url": {"url": "missing.png"}}
        return (
            line(f"l{number}", "hi", max_tokens=-1),
            line(f"l{number}", [{"type": "text", "text": "What?"}, picture]),
            {"custom_id": f"l{number}", "method": "GET"},
            line(f"l{number}", "word " * 20_000),
        )[number // 100 % 4]

    write_lines(
        source,
        (
            poison(number) if number in bad else line(f"l{number}", f"Say {number}", max_tokens=2)
            for number in range(num_lines)
        ),
    )
    arguments = (str(source), str(output), "--model", str(model), *FLAGS)
    with started_batch(*arguments, **VARIABLES) as process:
        peak = _Peak(psutil.Process(process.pid))
        for kill in range(num_kills):
            parts = 10 * (kill + 1)
            wait_until(
                lambda parts=parts: len(list(output.glob("part-*"))) >= parts, TIMEOUT_S, "parts"
            )
            workers_of(process.pid)[0].send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 1, stderr
        num_bytes = peak.stop()
    parts = Parts(output)
    assert parts.ids == Counter({f"l{number}": 1 for number in range(num_lines)})
    assert {one["custom_id"] for one in parts.failures} == {f"l{number}" for number in bad}
    return num_bytes


def test_five_thousand_lines_with_poison_and_two_workers_killed(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    few = _run(demo_checkpoint, tmp_path / "few", 500, 0)
    many = _run(demo_checkpoint, tmp_path / "many", 5000, 2)
    assert many < few + _NOISE, f"{few / _MIB:.0f} MiB for 500 lines, {many / _MIB:.0f} for 5,000"
