"""`phi3v serve` in a process of its own, for a benchmark to ask."""

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from scoring.child_process import start_python

_LISTENING = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
_READY = "ready after"
_START_S, _STOP_S = 300.0, 60.0
_NUM_LAST_LINES = 5


class OwnServer:
    """Started with a checkpoint and flags, on a port that is free; url is known when it is ready.

    Exits this process where the server does not get ready in time, and where it has ended by itself
    when the `with` block does: what was measured until then means nothing.
    """

    def __init__(self, checkpoint: Path, *flags: str, start_s: float = _START_S) -> None:
        # A server's settings in the user's environment are not for this one.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PHI3V_")}
        self._process = start_python(
            *(
                "server.batch.leashed_server",
                "serve",
            ),  # it ends with this process, even a killed one
            *("--host", "127.0.0.1", "--port", "0", "--log-level", "info"),
            *("--dtype", "float32", "--model", str(checkpoint), *flags),
            environ=kept,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._log = _Log(self._process)
        try:
            self.url = self._log.wait_until_ready(start_s)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        has_ended = self._process.poll() is not None
        self.close()
        if has_ended:
            raise SystemExit(f"the server has ended: {self._log.last_words()}") from error

    def close(self) -> None:
        """Stop it, and wait for that; a second call does nothing."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # its leash
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class _Log:
    """What the server writes, read to its end by a thread: a full pipe would hold it up."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._last: deque[str] = deque(maxlen=_NUM_LAST_LINES)
        self._url = ""
        self._is_ready_or_ended = threading.Event()
        self._is_ready = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self, timeout_s: float) -> str:
        """Its address. Exits this process where there is none after timeout_s."""
        start = time.monotonic()
        self._is_ready_or_ended.wait(timeout_s)
        if not self._is_ready:
            how = f"in {time.monotonic() - start:.0f} s"
            sys.exit(f"the server did not get ready {how}: {self.last_words()}")
        return self._url

    def last_words(self) -> str:
        return "\n".join(self._last) or "it said nothing"

    def close(self) -> None:
        self._reader.join(_STOP_S)
        assert self._process.stdout is not None
        if not self._reader.is_alive():  # else it holds the file's lock
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").strip()
            self._last.append(line)
            if found := _LISTENING.search(line):
                self._url = found[1]
            if self._url and _READY in line:
                self._is_ready = True
                self._is_ready_or_ended.set()
        self._is_ready_or_ended.set()
