"""`phi3v …` in a pseudo-terminal, as a user has it before them."""

import codecs
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..http.running_server import PROJECT, command, environment

_WAIT_S = 30.0


class Terminal:
    """screen: every byte that the command has written, what it echoes included, as text."""

    def __init__(self, process: "subprocess.Popen[bytes]", descriptor: int) -> None:
        self.process = process
        self.screen = ""
        self._descriptor = descriptor
        # A character may come in two reads.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def press_ctrl_c(self) -> None:
        self.type("\x03")

    def expect(self, text: str) -> str:
        """Wait for a text beyond what was expected before → what came up to its end."""
        deadline = time.monotonic() + _WAIT_S
        while (found := self.screen.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.screen[self._seen :]!r}"
            self._read()
        start, self._seen = self._seen, found + len(text)
        return self.screen[start : self._seen]

    def exit_code(self) -> int:
        """Of a command that ends by itself."""
        deadline = time.monotonic() + _WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running: {self.screen!r}"
            self._read()
        return self.process.returncode

    def _read(self) -> None:
        if select.select([self._descriptor], [], [], 0.05)[0]:
            try:
                self.screen += self._decoder.decode(os.read(self._descriptor, 65536))
            except OSError:  # the command is gone, and its end of the terminal
                time.sleep(0.05)


@contextmanager
def in_terminal(*arguments: str, **variables: str) -> Iterator[Terminal]:
    """The command is hung up on at the end, if it still runs."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    env = environment(TERM="xterm", INPUTRC="/dev/null", **variables)
    env.pop("COLUMNS", None)  # of whoever runs the tests
    process = subprocess.Popen(
        command(*arguments),
        cwd=PROJECT,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(ours)


def _take_terminal() -> None:
    """Make stdin the session's own terminal, so that Ctrl-C in it is a signal."""
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
