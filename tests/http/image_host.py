"""A host of pictures, good and hostile: a real TLS server on loopback, and what finds it.

Its certificates are signed by an authority made for it; names resolve to it by a table. So a
fetcher does all that it does on the internet, and nothing leaves the machine.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import trustme

from server.image_fetcher import ImageFetcher

from .pictures import plain_png

NAME, OTHER = "pictures.test", "other.pictures.test"
PICTURE = plain_png(40, 30)


class ImageHost:
    """Answers by path, and remembers who asked."""

    def __init__(self, authority: trustme.CA, *names: str, **certificate: Any) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.names_asked_for: list[str | None] = []
        self.num_connections = 0
        self.num_open = self.most_open = 0
        self.stop = threading.Event()
        self.redirects: dict[str, str] = {}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*(names or (NAME, OTHER)), **certificate).configure_cert(context)
        context.sni_callback = lambda _, name, __: self.names_asked_for.append(name)
        host = self

        class Server(ThreadingHTTPServer):
            daemon_threads = False
            block_on_close = True

            def get_request(self) -> tuple[Any, Any]:
                connection, address = super().get_request()
                host.num_connections += 1
                return connection, address

            def finish_request(self, request: Any, client_address: Any) -> None:
                host.num_open += 1
                host.most_open = max(host.most_open, host.num_open)
                try:
                    request.settimeout(20)
                    with context.wrap_socket(request, server_side=True) as secured:
                        self.RequestHandlerClass(secured, client_address, self)
                except OSError:
                    pass  # the client has left, or does not trust us
                finally:
                    host.num_open -= 1

            def shutdown_request(self, request: Any) -> None:
                self.close_request(request)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.requests.append((self.path, dict(self.headers.items())))
                host._answer(self)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])

    @contextmanager
    def serving(self) -> Iterator["ImageHost"]:
        thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="image host"
        )
        thread.start()
        try:
            yield self
        finally:
            self.stop.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        if path in self.redirects:
            self._send(handler, 302, b"", Location=self.redirects[path], **{"Set-Cookie": "a=b"})
        elif path == "/picture.png":
            self._send(handler, 200, PICTURE, **{"Content-Type": "text/plain"})
        elif path == "/page.html":
            self._send(handler, 200, b"<html></html>", **{"Content-Type": "image/png"})
        elif path == "/empty":
            self._send(handler, 200, b"")
        elif path == "/packed":
            self._send(handler, 200, PICTURE, **{"Content-Encoding": "gzip"})
        elif path == "/longer-than-said":
            self._send(handler, 200, PICTURE + b"more", **{"Content-Length": str(len(PICTURE))})
        elif path == "/shorter-than-said":
            self._send(handler, 200, PICTURE, **{"Content-Length": str(len(PICTURE) + 9)})
        elif path == "/endless":
            self._send(handler, 200, None)
            self._go_on(handler, PICTURE + bytes(1 << 16))
        elif path == "/slow":
            self._send(handler, 200, None)
            self._go_on(handler, b"x", every_s=0.1)
        elif path == "/silent":
            handler.rfile.read(1)  # returns when the client closes
        elif path == "/headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self._go_on(handler, b"X-More: and more\r\n")
        elif path == "/nonsense":
            handler.wfile.write(b"\x00\x01\x02 nonsense\r\n\r\n")
        else:
            self._send(handler, int(path.strip("/") or 404), PICTURE)

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes | None, **headers: str
    ) -> None:
        handler.send_response(status)
        if body is not None:
            headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body or b"")

    def _go_on(
        self, handler: BaseHTTPRequestHandler, piece: bytes, *, every_s: float = 0.0
    ) -> None:
        """Until the client has had enough, or twenty seconds are over."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not self.stop.wait(every_s):
            handler.wfile.write(piece)


@contextmanager
def image_host(authority: trustme.CA, *names: str, **certificate: Any) -> Iterator[ImageHost]:
    with ImageHost(authority, *names, **certificate).serving() as host:
        yield host


def expired() -> dict[str, datetime]:
    """A certificate's dates."""
    now = datetime.now(UTC)
    return {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=1)}


class Names:
    """A DNS of few names, and how often each was asked for. `answers` may change."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, list[tuple[str, int]]] = dict(answers)
        self.asked: list[str] = []

    async def resolve(self, name: str) -> list[tuple[str, int]]:
        self.asked.append(name)
        await asyncio.sleep(0)
        if name not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        return self.answers[name]


def names_of(host: ImageHost) -> Names:
    names = Names()
    names.answers = {name: [("127.0.0.1", host.port)] for name in (NAME, OTHER)}
    return names


def only(*addresses: str) -> Callable[[IPv4Address | IPv6Address], bool]:
    """In place of `is_public_address`: these addresses are, all others are not."""
    return lambda address: str(address) in addresses


def fetcher_for(authority: trustme.CA, names: Names, **options: Any) -> ImageFetcher:
    """A fetcher that takes 127.0.0.1 for the public internet and trusts the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    given = {"max_bytes": 1 << 20, "timeout_s": 5.0, "max_fetches": 4} | options
    return ImageFetcher(
        given.pop("hosts", (NAME, f"*.{NAME}")),
        resolve=names.resolve,
        tls=context,
        **{"is_allowed": only("127.0.0.1")} | given,
    )
