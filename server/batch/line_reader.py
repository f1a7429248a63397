"""A batch's lines as there is room for them, also from an input that lets one wait."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue

from .batch_input import Line


class LineReader:
    """is_file: a regular one, which is read at once. Of a pipe a thread reads each line that is
    asked for: however long its writer takes, answers come and signals are heard meanwhile. Nobody
    waits for that thread at the end, as nothing breaks its reading off."""

    def __init__(self, lines: Iterator[Line], *, is_file: bool) -> None:
        self._lines = lines
        self._is_file = is_file
        self._asked: SimpleQueue[Future[Line | None]] = SimpleQueue()
        if not is_file:
            threading.Thread(target=self._read, daemon=True).start()

    async def next(self) -> Line | None:
        """None at the end. Raises what the lines raise."""
        if self._is_file:
            return next(self._lines, None)
        asked: Future[Line | None] = Future()
        self._asked.put(asked)
        return await asyncio.wrap_future(asked)

    def _read(self) -> None:
        while True:
            asked = self._asked.get()
            if not asked.set_running_or_notify_cancel():
                continue
            try:
                asked.set_result(next(self._lines, None))
            except Exception as error:
                asked.set_exception(error)
