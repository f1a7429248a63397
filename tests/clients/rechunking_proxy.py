"""A proxy that cuts what a server says into pieces of seven bytes, as no front end would but every
one may: the chunks of a body, which HTTP libraries hand on one by one, and the writes to the
socket."""

import asyncio
import re
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit

SIZE = 7
_CHUNKED = re.compile(rb"^transfer-encoding: *chunked\r$", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)


@contextmanager
def rechunked(base_url: str, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a proxy in front of the server, in a thread of its own. tls: what it speaks
    https with; the server behind it speaks plain HTTP."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="rechunking proxy")
    thread.start()
    try:
        proxy = _Proxy(base_url)
        port = asyncio.run_coroutine_threadsafe(proxy.start(tls), loop).result(10)
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Proxy:
    def __init__(self, base_url: str) -> None:
        self._upstream = urlsplit(base_url)
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, tls: ssl.SSLContext | None) -> int:
        """Listen on a free port: which one."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Both ways until one side hangs up, which the other then sees."""
        with closing(writer):
            answers, requests = await asyncio.open_connection(
                self._upstream.hostname, self._upstream.port
            )
            with closing(requests):
                ways = [
                    asyncio.create_task(_copy(reader, requests)),
                    asyncio.create_task(_copy_in_pieces(answers, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def _copy_in_pieces(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer after answer, until one side hangs up."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await answers.readuntil(b"\r\n\r\n")
            await _write(writer, head)
            if _CHUNKED.search(head):
                await _copy_chunks(answers, writer)
            elif length := _LENGTH.search(head):
                await _write(writer, await answers.readexactly(int(length[1])))


async def _copy_chunks(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Cut after every seventh byte of the body, not of the chunk: events that begin alike are cut
    in different places."""
    num_bytes = 0
    while size := int(await answers.readuntil(b"\r\n"), 16):
        chunk = (await answers.readexactly(size + 2))[:size]
        for piece in _pieces(chunk, first=SIZE - num_bytes % SIZE):
            await _write(writer, b"%x\r\n%b\r\n" % (len(piece), piece))
        num_bytes += size
    await _write(writer, b"0\r\n" + await answers.readexactly(2))


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Each piece is a packet of its own: asyncio turns off Nagle's algorithm."""
    for piece in _pieces(data):
        writer.write(piece)
        await writer.drain()


def _pieces(data: bytes, first: int = SIZE) -> list[bytes]:
    starts = [0, *range(first, len(data), SIZE)]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
