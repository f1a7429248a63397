"""Streamed chats over HTTP/1.1 connections that are kept for the next request.

On asyncio's protocols, without streams and tasks between: the load generator often shares the
processor with the server that it measures, and what it costs per token is its limit.
"""

import asyncio
import ssl
import time
from urllib.parse import urlsplit

import msgspec

from .answer import Answer, AnswerReader
from .endpoint import Endpoint, Message
from .http_response import HttpResponse

_MAX_ERROR_BYTES = 1000


class Client:
    """Asks one endpoint. Use it from one event loop, and close it there."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        address = urlsplit(endpoint.url)
        self._is_tls = address.scheme == "https"
        self._host = address.hostname or ""
        self._port = address.port or (443 if self._is_tls else 80)
        self._tls = ssl.create_default_context() if self._is_tls else None
        self._idle: list[_Connection] = []

    async def ask(self, messages: list[Message], max_tokens: int) -> Answer:
        """Post one chat and read its stream to the end. Errors are in the answer, never raised."""
        request = self._endpoint.request(messages, max_tokens)
        answer = Answer(start=time.perf_counter())
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(request, AnswerReader(answer, max_tokens), answer)
        except TimeoutError:
            answer.fail("timeout", f"no end after {self._timeout_s:g} s")
        except OSError as error:
            answer.fail("no connection", f"{type(error).__name__}: {error}")
        except (ValueError, msgspec.DecodeError) as error:
            answer.fail("answer that is no chat's", str(error)[:200])
        answer.end = time.perf_counter()
        return answer

    def close(self) -> None:
        """Close the connections that wait for a request."""
        while self._idle:
            self._idle.pop().close()

    async def _exchange(self, request: bytes, reader: AnswerReader, answer: Answer) -> None:
        while True:
            connection = self._take_idle()
            was_used = connection is not None
            connection = connection or await self._connect()
            try:
                has_answer = await connection.exchange(request, reader, answer)
            except BaseException:  # cancelled, too: what is left of the answer must not come later
                connection.close()
                raise
            if connection.keeps_alive:
                self._idle.append(connection)
            else:
                connection.close()
            if has_answer:
                return
            if not was_used:
                answer.fail("hung up before the answer")
                return
            # The server had closed a connection that nobody used for a while: not its failure.

    def _take_idle(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.keeps_alive:
                return connection
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        server_hostname = self._host if self._is_tls else None
        _, connection = await loop.create_connection(
            _Connection, self._host, self._port, ssl=self._tls, server_hostname=server_hostname
        )
        return connection


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._response = HttpResponse()
        self._reader: AnswerReader | None = None
        self._answer: Answer | None = None
        self._error_body = b""
        self._end: asyncio.Future[None] | None = None
        self._is_closed = False

    @property
    def keeps_alive(self) -> bool:
        return not self._is_closed and self._response.keeps_alive

    async def exchange(self, request: bytes, reader: AnswerReader, answer: Answer) -> bool:
        """→ False if the server closed without a byte of an answer. Raises what reading raises."""
        assert self._transport is not None
        self._response, self._reader, self._answer = HttpResponse(), reader, answer
        self._end = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._end
        if self._response.status is None:
            return False
        if self._response.status != 200:
            text = self._error_body.decode(errors="replace")[:200]
            answer.fail(f"status {self._response.status}", text)
        elif self._response.is_complete or self._response.ends_at_close:
            reader.close()
        else:
            answer.fail("hung up in the stream", f"after {len(answer.times)} pieces of text")
        return True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._end is None or self._end.done():
            self.close()  # nobody asked
            return
        try:
            body = self._response.feed(data)
            if self._response.status not in (None, 200):
                self._error_body += body[:_MAX_ERROR_BYTES]
            elif body and self._reader is not None:
                self._reader.feed(body, now)
        except (ValueError, msgspec.DecodeError) as error:
            self._end.set_exception(error)
            return
        if self._response.is_complete:
            self._end.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        if self._end is not None and not self._end.done():
            self._end.set_result(None)
