"""Each check in a process of its own: an illegal access poisons a CUDA context for good, and a
kernel may hang or crash. The other checks shall not notice.

The processes are forked from a server that has imported torch and never touched a GPU, which takes
no time, and their memory is the system's again before the next one starts.
"""

import logging
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from .table import Row, failed

_PRELOADED = ["benchmark.gpu_check.checks"]
_LAST_WORDS_S = 10.0


@dataclass(frozen=True)
class Task:
    """A check of a subject. run: yields the rows; it and its parts can be pickled."""

    check: str
    subject: str
    run: Callable[[], Iterator[Row]]


def run_isolated(task: Task, timeout_s: float) -> Iterator[Row]:
    """The task's rows, as they are found. What ends it early is a row, too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(task, theirs), daemon=True)
    process.start()
    theirs.close()
    deadline = time.monotonic() + timeout_s
    try:
        while ours.poll(max(0.0, deadline - time.monotonic())):
            found = ours.recv()
            if found is None:
                process.join(_LAST_WORDS_S)
                return
            yield found
        yield failed(task.check, task.subject, f"no end after {timeout_s:g} s")
    except EOFError:
        process.join(_LAST_WORDS_S)
        yield failed(
            task.check, task.subject, f"its process died with exit code {process.exitcode}"
        )
    finally:
        ours.close()
        process.kill()
        process.join()


def _run(task: Task, connection: Connection) -> None:
    """In the child."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        for row in task.run():
            connection.send(row)
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().split("\n", 1)[0]
        connection.send(failed(task.check, task.subject, f"{type(error).__name__}: {said}"))
    connection.send(None)
