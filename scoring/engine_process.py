"""The engine in a process of its own: `python -m scoring.engine_process ENDPOINT`.

It serves whoever started it, over the socket whose address it is given, until it is told to stop.
Its standard input is the parent's sign of life: where that ends, however it ended, this process
ends at once. Signals that a terminal or a platform sends to all are left to the parent, which
drains first. It starts as a fresh interpreter, with no state, no lock and no thread of the parent.
"""

import logging
import os
import signal
import sys
import threading

import zmq

from .engine_link import Call, Message, Progress, to_refused
from .engine_loop import run_engine
from .errors import InvalidSequenceError
from .logs import configure_logging
from .wire import ENGINE_ID, Start, WireError, decode_call, encode_message

logger = logging.getLogger(__name__)

# How long the last message may take to leave, if the parent is slow to read.
_LINGER_MS = 2000
_UNREADABLE = "a value of the request has a type that the engine does not take"


class SocketChannel:
    """The loop's end of the socket, an EngineChannel."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def next_call(self, *, wait: bool) -> Call | None:
        while True:
            call = self._receive(wait)
            if not isinstance(call, Start):
                return call
            logger.error("a second start is ignored")

    def tell(self, message: Message) -> None:
        self._socket.send(encode_message(message))

    def start(self) -> Start:
        """Wait for what to do."""
        while True:
            call = self._receive(wait=True)
            if isinstance(call, Start):
                return call
            logger.error("a call before the start is ignored")

    def _receive(self, wait: bool) -> Start | Call | None:
        """What cannot be read is passed over; whose sequence it would have been is told so."""
        while True:
            try:
                # Frames, not bytes: a picture's pixels stay where they arrive.
                frames = self._socket.recv_multipart(0 if wait else zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return None
            try:
                return decode_call([frame.buffer for frame in frames])
            except WireError as error:
                logger.error("a call could not be read: %s", error)
                if error.sequence_id is not None:
                    self.tell(to_refused(error.sequence_id, InvalidSequenceError(_UNREADABLE)))


def main(endpoint: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.routing_id = ENGINE_ID
        socket.set_hwm(0)
        socket.linger = _LINGER_MS
        socket.connect(endpoint)
        channel = SocketChannel(socket)
        channel.tell(Progress(0, 0))  # says that it is there
        start = channel.start()
        configure_logging(start.log_level, start.log_format)
        run_engine(start.config, start.build, channel)


def _end_with_parent() -> None:
    stdin = sys.stdin.fileno()
    while os.read(stdin, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
    # All is said and sent. The interpreter's and torch's own tear-down would take a second more.
    logging.shutdown()
    os._exit(0)
