"""A proxy that serves a server below a prefix, as a gateway in front of several would."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit


@contextmanager
def below(prefix: bytes, base_url: str) -> Iterator[str]:
    """Its address without the prefix, which it takes off every request. One request a
    connection; what does not begin with the prefix is hung up on."""
    server = urlsplit(base_url)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, rest = head.split(b" ", 2)
            if path.startswith(prefix + b"/"):
                answers, requests = await asyncio.open_connection(server.hostname, server.port)
                with closing(requests):
                    rest = rest.replace(b"Connection: keep-alive", b"Connection: close")
                    requests.write(b" ".join((method, path.removeprefix(prefix), rest)))
                    upload = asyncio.create_task(_copy(reader, requests))
                    await _copy(answers, writer)
                    upload.cancel()

    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="prefix proxy")
    thread.start()
    listening = asyncio.run_coroutine_threadsafe(
        asyncio.start_server(connect, "127.0.0.1", 0), loop
    ).result(10)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(_stop(listening), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    await asyncio.sleep(0.1)  # what was accepted before has its task
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0.1)  # what is closing is closed, before the loop is
