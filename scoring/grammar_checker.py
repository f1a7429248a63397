"""Whether a grammar can be compiled, found out where it can hurt nobody (grammar_process.py)."""

import asyncio
import json
import signal
import subprocess
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from .child_process import start_python
from .errors import EngineOverloadedError, GrammarError
from .grammar import Grammar
from .grammar_process import CPU_S, MEMORY_BYTES

_MAX_WAITING = 128
_MAX_KNOWN = 64
# Its timers' signals, and what an allocation that fails becomes.
_LIMIT_REACHED = {-signal.SIGPROF, -signal.SIGALRM, -signal.SIGABRT, -signal.SIGSEGV}
_EXIT_S = 1.0
_TOO_COMPLEX = (
    f"it is too complex: compiling it takes more than {CPU_S:g} s or {MEMORY_BYTES >> 20} MiB"
)


class GrammarChecker:
    """Asks a process, started when first needed and again when a grammar was too much for it.

    What was asked last is remembered: the answer for the same grammar is always the same.
    """

    def __init__(self, tokenizer: Path, end_token_ids: frozenset[int]) -> None:
        """tokenizer: a tokenizer.json. end_token_ids: see GrammarTokenizer."""
        self._start_line = {
            "tokenizer": str(tokenizer.absolute()),
            "end_token_ids": sorted(end_token_ids),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._reasons: OrderedDict[str, str | None] = OrderedDict()
        self._num_waiting = 0
        self._is_closed = False
        # One at a time; its thread only waits.
        self._thread = ThreadPoolExecutor(1, "grammars")

    async def check(self, grammar: Grammar) -> None:
        """Raises GrammarError with the reason, and EngineOverloadedError where too many wait.

        Cancelled, it does not begin; one that has begun is soon over.
        """
        if grammar.text in self._reasons:
            self._reasons.move_to_end(grammar.text)
            reason = self._reasons[grammar.text]
        else:
            reason = await self._ask_when_free(grammar.text)
        if reason is not None:
            raise GrammarError(reason)

    def close(self) -> None:
        """End the process; once, and from then on nothing can be checked."""
        self._is_closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.kill()
        self._thread.shutdown()
        self._end()

    async def _ask_when_free(self, text: str) -> str | None:
        if self._num_waiting >= _MAX_WAITING:
            raise EngineOverloadedError(
                f"{self._num_waiting} grammars are waiting to be compiled, the most allowed"
            )
        self._num_waiting += 1
        try:
            reason = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, text)
        finally:
            self._num_waiting -= 1
        self._reasons[text] = reason
        if len(self._reasons) > _MAX_KNOWN:
            self._reasons.popitem(last=False)
        return reason

    def _ask(self, text: str) -> str | None:
        """The reason why not, or None. Waits."""
        for _ in range(2):  # it may have been killed for no fault of the grammar's
            if self._process is None:
                self._start()
            answer = self._exchange(text)
            if answer:
                reason: str | None = json.loads(answer)
                return reason
            if self._end() in _LIMIT_REACHED or self._is_closed:
                break
        return _TOO_COMPLEX

    def _start(self) -> None:
        self._process = start_python(
            "scoring.grammar_process",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what libraries say when there is no more memory
        )
        if self._exchange(self._start_line) != "null\n":
            code = self._end()
            raise RuntimeError(f"the process that compiles grammars does not start: {code}")

    def _exchange(self, line: object) -> str:
        """Send a line and read one; "" if the process ends first."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
            return process.stdout.readline().decode()
        except BrokenPipeError:
            return ""

    def _end(self) -> int | None:
        """Its exit code, if there was one."""
        process, self._process = self._process, None
        if process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            process.wait(_EXIT_S)
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what it did not read
                    pipe.close()
        return code
