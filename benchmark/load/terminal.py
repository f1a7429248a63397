"""What is seen on a terminal: progress while it measures, tables at the end."""

import time

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from .answer import Answer
from .loops import Stop
from .summary import Summary
from .tables import Table, number


class TerminalProgress:
    """A bar for each load on a terminal; a line for each that is done where there is none.
    Written to standard error: the tables go to standard output."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[num_requests]} requests, {task.fields[num_errors]} errors"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = TaskID(0)
        self._title = ""
        self._stop = Stop()
        self._start = 0.0
        self._num_requests = self._num_errors = 0

    def __enter__(self) -> "TerminalProgress":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def begin(self, title: str, stop: Stop) -> None:
        self._title, self._stop, self._start = title, stop, time.perf_counter()
        self._num_requests = self._num_errors = 0
        self._task = self._progress.add_task(title, total=1.0, num_requests=0, num_errors=0)

    def on_answer(self, answer: Answer) -> None:
        self._num_requests += 1
        self._num_errors += answer.error is not None
        self._progress.update(
            self._task,
            completed=self._part_done(),
            num_requests=self._num_requests,
            num_errors=self._num_errors,
        )

    def end(self, summary: Summary | None) -> None:
        self._progress.update(self._task, completed=1.0)
        if summary is not None and not self._console.is_terminal:
            self._console.print(
                f"{self._title}: {summary.num_requests} requests, {sum(summary.errors.values())} "
                f"errors, {number(summary.output_tokens_per_s)} tokens/s, "
                f"TTFT p50 {number(summary.ttft_ms.p50)} ms"
            )

    def _part_done(self) -> float:
        parts = [0.0]
        if self._stop.num_requests:
            parts.append(self._num_requests / self._stop.num_requests)
        if self._stop.duration_s:
            parts.append((time.perf_counter() - self._start) / self._stop.duration_s)
        return min(max(parts), 1.0)


def print_tables(tables: list[Table], remarks: list[str]) -> None:
    console = Console(highlight=False)
    for table in tables:
        drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
        for place, name in enumerate(table.header):
            drawn.add_column(name, justify="right" if place else "left", no_wrap=not place)
        for row in table.rows:
            drawn.add_row(*map(Text, row))
        console.print(drawn)
    for remark in remarks:
        console.print(remark, markup=False)
