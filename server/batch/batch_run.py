"""A batch on its way: so many lines at once, until the input's end or a signal."""

import asyncio
import signal

from .batch_input import Line
from .line_reader import LineReader
from .lines import AnsweredLine, BadLine
from .progress import BatchProgress
from .result_file import ResultFile
from .results import error_of
from .sender import Sender

# What is in flight at the first signal has this long: less than platforms wait before they kill.
_FINISH_S = 8.0


class BatchRun:
    """Each of `concurrency` workers reads a line when it has written the last one's result: nothing
    else is read ahead, and whatever may happen, what is in flight is all there is in memory."""

    def __init__(
        self,
        lines: LineReader,
        sender: Sender,
        results: ResultFile,
        progress: BatchProgress,
        concurrency: int,
    ) -> None:
        self._lines = lines
        self._sender = sender
        self._results = results
        self._concurrency = concurrency
        self._progress = progress
        self._workers: list[asyncio.Task[None]] = []
        self._waiting: set[asyncio.Task[None]] = set()  # those of them that have no line yet
        self.signal: signal.Signals | None = None

    async def run(self) -> None:
        """Until all lines are answered, or a signal has ended it, which self.signal then names.
        Raises what the sender and the results raise; what is in flight is then abandoned."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]
        try:
            done, _ = await asyncio.wait(self._workers, return_when=asyncio.FIRST_EXCEPTION)
            for worker in done:
                if not worker.cancelled():  # by a signal
                    worker.result()
        finally:
            self._abandon()
            await asyncio.gather(*self._workers, return_exceptions=True)
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def _work(self) -> None:
        while self.signal is None and (line := await self._next_line()) is not None:
            if isinstance(line, AnsweredLine):
                self._progress.skipped(line.num_bytes)
                await asyncio.sleep(0)  # many in a row hold up no answer, and no signal
                continue
            if isinstance(line, BadLine):
                result = error_of(line.custom_id, "invalid_line", line.message, line.place)
                await asyncio.sleep(0)
            else:
                result = await self._sender.send(line)
            self._results.write(result)
            self._progress.done(line.num_bytes, result.is_answer, not result.is_answer)

    async def _next_line(self) -> Line | None:
        worker = asyncio.current_task()
        assert worker is not None
        self._waiting.add(worker)
        try:
            return await self._lines.next()
        finally:
            self._waiting.remove(worker)

    def _on_signal(self, number: signal.Signals) -> None:
        """The first lets what is in flight finish, a second does not."""
        if self.signal is None:
            self.signal = signal.Signals(number)
            for worker in self._waiting:
                worker.cancel()
            asyncio.get_running_loop().call_later(_FINISH_S, self._abandon)
        else:
            self._abandon()

    def _abandon(self) -> None:
        for worker in self._workers:
            worker.cancel()
