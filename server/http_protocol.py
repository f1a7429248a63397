"""uvicorn's reading of HTTP/1.1, with an end to its patience in both directions and with our
errors."""

import asyncio
import logging
import socket
import struct
import sys
from typing import Any
from uuid import uuid4

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import (
    APIError,
    BadHeaderError,
    HeadersTooLargeError,
    TimedOutError,
    error_answer,
    error_response,
)

logger = logging.getLogger(__name__)
_SEND_BUFFER_BYTES = 1 << 17


class HTTPProtocol(H11Protocol):
    """A connection. It ends when a request's head takes longer than max_receive_s: with a 408, or
    without a word where no byte of it has come. It ends, too, when a body that nobody reads any
    more, as its answer is out, still comes after that time. (A body that is read has its deadline
    in body_limit.py.)

    Nor does it wait for a client that does not read: where some of an answer is unsent and the
    client takes nothing of it for max_stall_s, the connection is cut, which ends its request.

    What is no HTTP is answered with the API's error body, where uvicorn says a word in plain text.
    """

    def __init__(
        self, *arguments: Any, max_receive_s: float, max_stall_s: float, **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self._max_receive_s = max_receive_s
        self._max_stall_s = max_stall_s
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # pause_writing is called as soon as the system's own buffer is full, and that one does not
        # grow to megabytes: what the client has read of those would not show. (Not 0: asyncio's
        # TLS would pause where nothing waits.)
        transport.set_write_buffer_limits(high=1)
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES
        )
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watch()
        self._end_stall()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_stall()
        self._begin_stall()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_stall()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Let the time run while it does, and only then."""
        if not self._is_awaiting_input():
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self._max_receive_s, self._on_deadline)

    def _is_awaiting_input(self) -> bool:
        if self.transport.is_closing():
            return False
        if self.conn.their_state is h11.IDLE:
            # Between two requests uvicorn's own keep-alive runs.
            return self.timeout_keep_alive_task is None
        return self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(TimedOutError("the request's head took too long to arrive"))
        else:
            self.transport.close()

    def _begin_stall(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self._max_stall_s, self._on_stall, unsent)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _on_stall(self, unsent_before: int) -> None:
        """While writing is paused nobody adds to what is unsent: less of it means that the client
        reads."""
        if self.transport.get_write_buffer_size() < unsent_before:
            self._begin_stall()
            return
        logger.warning("a client read nothing for %g s and is cut off", self._max_stall_s)
        # With a reset: else the system would go on offering what is in its own buffer.
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Called while h11's error is handled; only that knows what was wrong."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self._refuse(HeadersTooLargeError("the request's head is too large"))
        else:
            self._refuse(BadHeaderError("this is not HTTP/1.1 as the server reads it"))

    def _refuse(self, error: APIError) -> None:
        """Answer in the application's place, and hang up. If it has begun to answer, only that."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # what it still sends is dropped
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        response = error_response(*error_answer(error))
        request_id = str(uuid4())
        logger.info("no request %d id=%s", response.status_code, request_id)
        headers = [(b"x-request-id", request_id.encode()), (b"connection", b"close")]
        events = (
            h11.Response(
                status_code=response.status_code, headers=[*response.raw_headers, *headers]
            ),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
