"""The engine in a process of its own (engine_process.py), which this end starts, hears and ends.

Nothing waits for the process: its messages are read when the event loop sees them, and its end,
however it comes, is seen as soon as the kernel knows of it.
"""

import asyncio
import logging
import os
import signal
import subprocess

from .child_process import start_python
from .engine_config import EngineConfig
from .engine_link import Call, Ended, Receive, Stop
from .engine_socket import EngineSocket
from .logs import log_format
from .wire import Start, WireError

logger = logging.getLogger(__name__)

# To end after Stop. A step over a long prompt takes longer on a CPU, but nobody waits for it.
_STOP_S = 5.0
# For the last message to come through after its sender has ended in good order.
_LAST_MESSAGE_S = 0.5
# Then the event loop's other work has its turn.
_MESSAGES_AT_ONCE = 64


class ProcessLink:
    """An EngineLink. build: the "module:name" of a function, imported in the process."""

    def __init__(self, config: EngineConfig, build: str, receive: Receive) -> None:
        self._config = config
        self._build = build
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._socket: EngineSocket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._process_fd = -1
        self._exit_code: int | None = None
        self._is_connected = False
        self._is_stopping = False
        self._has_ended = False
        self._gone = asyncio.Event()

    def start(self) -> None:
        self._socket = EngineSocket()
        try:
            self._process = start_python("scoring.engine_process", self._socket.endpoint)
        except OSError:
            self._socket.close()
            raise
        self._process_fd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._process_fd, self._on_exit)
        self._loop.add_reader(self._socket.fileno(), self._on_readable)

    def send(self, call: Call) -> None:
        self._send(call)

    async def stop(self, *, is_loading: bool) -> None:
        """A process that still loads serves nobody, and is killed; so is one that takes longer
        than _STOP_S to end."""
        if self._process is None:
            return
        self._is_stopping = True
        if is_loading:
            self._kill()
        else:
            self._send(Stop())
        try:
            async with asyncio.timeout(_STOP_S):
                await self._gone.wait()
        except TimeoutError:
            logger.warning("the engine's process did not end within %g s: killed", _STOP_S)
            self._kill()
            await self._gone.wait()

    def _send(self, call: Start | Call) -> None:
        if self._socket is not None:
            self._socket.send(call)
            if self._socket.is_readable:
                self._loop.call_soon(self._on_readable)

    def _on_readable(self) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            if not self._read_one():
                return
        self._loop.call_soon(self._on_readable)

    def _read_one(self) -> bool:
        """Pass a message on. False if there is none."""
        if self._socket is None:
            return False
        try:
            message = self._socket.receive()
        except WireError as error:  # whose request it was about would wait for ever
            self._end(f"the engine's process sent what cannot be read: {error}")
            self._kill()
            return False
        if message is None:
            return False
        if not self._is_connected:
            self._is_connected = True
            level = logging.getLogger().getEffectiveLevel()
            self._send(Start(self._config, self._build, level, log_format()))
        if isinstance(message, Ended):
            self._end(message.failure)
            if self._exit_code is not None:
                self._finish()
        else:
            self._receive(message)
        return True

    def _on_exit(self) -> None:
        """The process is gone. After exit code 0 its last message may still be on the way."""
        assert self._process is not None
        self._loop.remove_reader(self._process_fd)
        os.close(self._process_fd)
        self._exit_code = self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        while self._read_one():
            pass
        if self._exit_code == 0 and not self._has_ended:
            self._loop.call_later(_LAST_MESSAGE_S, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        """Close what is left; once."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        failure = _obituary(self._exit_code or 0)
        if not self._is_stopping and not self._has_ended:
            logger.error(failure)
        self._end(None if self._is_stopping else failure)
        self._gone.set()

    def _end(self, failure: str | None) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._receive(Ended(failure))

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()


def _obituary(exit_code: int) -> str:
    if exit_code >= 0:
        return f"the engine's process ended by itself, with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
    return f"the engine's process was killed by {name}{hint}"
