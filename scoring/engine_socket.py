"""The parent's end of the socket to the engine's process, and the private place where it lies."""

import logging
import os
import shutil
import tempfile
from pathlib import Path

import zmq

from .engine_link import Call, Message
from .wire import ENGINE_ID, Start, decode_message, encode_call

logger = logging.getLogger(__name__)

_NAME = "engine"
# Of what arrives here: a step's tokens. Garbage may announce any length.
_MAX_MESSAGE_BYTES = 64 << 20


class EngineSocket:
    """A listening unix socket for one peer, the engine. Nothing here waits.

    It lies in a directory that only this user may enter, and both are gone as soon as the engine
    has spoken: from then on nobody else can connect, and nothing is left behind by a kill. What
    comes from anybody who was quicker is dropped. (zmq takes any bytes for its oldest protocol.)
    """

    def __init__(self) -> None:
        self._directory: Path | None = _private_directory()
        self.endpoint = f"ipc://{self._directory / _NAME}"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set_hwm(0)  # what is open is bounded elsewhere; a send must never wait
        self._socket.linger = 0
        self._socket.maxmsgsize = _MAX_MESSAGE_BYTES
        self._socket.bind(self.endpoint)

    def fileno(self) -> int:
        """A descriptor that becomes readable when a message *may* have come: read until there is
        none, and after every send look at `is_readable`. (zmq tells of changes, not of a state,
        and a send may take notice of one.)"""
        return self._socket.fileno()

    @property
    def is_readable(self) -> bool:
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def send(self, call: Start | Call) -> None:
        """Send to the engine; while it is not connected, to nobody.

        Pixels are copied once, into zmq's own memory: 0.4 ms for the largest picture. Lending
        them to zmq would need a thread of pyzmq's own that stays for good, to take them back.
        """
        self._socket.send_multipart([ENGINE_ID, *encode_call(call)], zmq.NOBLOCK)

    def receive(self) -> Message | None:
        """The next message, or None. Raises WireError."""
        while True:
            try:
                sender, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            if sender == ENGINE_ID and frames:
                self._remove_directory()
                return decode_message(frames[0])
            logger.warning("a message to the engine's socket that is not the engine's is dropped")

    def close(self) -> None:
        self._socket.close()
        self._context.term()
        self._remove_directory()

    def _remove_directory(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


def _private_directory() -> Path:
    """A new directory of mode 0700 whose name leaves room for the socket's in an address."""
    for parent in (tempfile.gettempdir(), "/tmp"):
        directory = Path(tempfile.mkdtemp(prefix="phi3v-", dir=parent))
        if len(os.fsencode(directory / _NAME)) <= zmq.IPC_PATH_MAX_LEN:
            return directory
        directory.rmdir()
    raise OSError("no directory for temporary files has a name short enough for a socket's address")
