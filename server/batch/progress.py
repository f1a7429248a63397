"""What a batch shows meanwhile, on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 5.0


class BatchProgress:
    """Counts lines by what became of them. How far the batch is, is told by bytes: how many lines
    there are, nobody has counted. total_bytes: of the input; None where its end is not known."""

    def __init__(self, total_bytes: int | None) -> None:
        self.num_answered = 0
        self.num_failed = 0
        self.num_skipped = 0
        self._num_bytes = 0
        self._total_bytes = total_bytes
        self._said = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            text = TextColumn("{task.description}")
            columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=total_bytes)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def counts(self) -> str:
        skipped = f", {self.num_skipped} answered before" if self.num_skipped else ""
        return f"{self.num_answered} answered, {self.num_failed} failed{skipped}"

    def done(self, num_bytes: int, num_answered: int, num_failed: int) -> None:
        """The results of so many lines are in the output."""
        self.num_answered += num_answered
        self.num_failed += num_failed
        self._advance(num_bytes)

    def skipped(self, num_bytes: int, num_lines: int = 1) -> None:
        """The answers of so many lines were there before."""
        self.num_skipped += num_lines
        self._advance(num_bytes)

    def say(self, text: str) -> None:
        """What is going on, where it has been the same for a while."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        elif time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            sys.stderr.write(f"phi3v batch: {text}\n")

    def _advance(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._bar is not None:
            self._bar.advance(self._task, num_bytes)
        percent = (
            f", {100 * self._num_bytes / self._total_bytes:.0f} %" if self._total_bytes else ""
        )
        self.say(self.counts + (percent if self._bar is None else ""))
