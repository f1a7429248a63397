"""Fetches the pictures that callers name by URL, without being made a way into our own network.

A name is resolved once; every address that it has must be public, and the connection goes to one
of those that were checked, while certificate and Host are the name's. Redirects are followed by
hand and checked like the first URL. No proxy, cookie, credential or pooled connection is used, and
nothing is unpacked. Whatever goes wrong once a name has been looked up gives one and the same
error: anything else would let callers explore what the server can reach.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import httpx

from .errors import ImageFetchError, ImageUrlNotAllowedError, RateLimitError
from .image_urls import check_image_url, is_public_address
from .images import begins_like_a_picture

logger = logging.getLogger(__name__)

_MAX_REDIRECTS = 3
_MAX_ADDRESSES = 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Endpoint = tuple[str, int]
"""An address and a port."""
Resolve = Callable[[str], Awaitable[Sequence[Endpoint]]]
_Loc = tuple[str, ...]


class _Failure(Exception):
    """Why an image was not fetched, for the log only."""


class ImageFetcher:
    """Fetches a few images at once, each within bounds of bytes and seconds."""

    def __init__(
        self,
        hosts: tuple[str, ...],
        *,
        max_bytes: int,
        timeout_s: float,
        max_fetches: int,
        resolve: Resolve | None = None,
        is_allowed: Callable[[IPv4Address | IPv6Address], bool] = is_public_address,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """hosts: as in ImageSettings.allow_image_urls. resolve, is_allowed and tls, whom to trust,
        are for tests, whose servers are on loopback."""
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(max_fetches)
        self._is_allowed = is_allowed
        self._resolve = resolve or self._ask_dns
        # Where it is not needed, the start need not wait for it.
        self._tls = tls or (httpx.create_ssl_context(trust_env=False) if hosts else None)
        # Of its own: a name whose servers never answer holds a thread for half a minute.
        self._resolvers = ThreadPoolExecutor(max_fetches, "resolver")

    async def fetch_all(self, urls: Sequence[tuple[str, _Loc]]) -> dict[str, bytes]:
        """The files by URL. urls: with their places, for errors. Raises what fetch does."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    url: group.create_task(self.fetch(url, loc)) for url, loc in dict(urls).items()
                }
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return {url: task.result() for url, task in tasks.items()}

    async def fetch(self, text: str, loc: _Loc) -> bytes:
        """The file at a URL, whatever its type is said to be. loc: where the URL stands.

        Raises ImageUrlNotAllowedError, before anything is sent; ImageFetchError; RateLimitError
        when others are being fetched all the time.
        """
        url = check_image_url(text, self._hosts, loc)
        async with self._slot():
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._follow(url)
            except TimeoutError:
                reason = "it took too long"
            except _Failure as failure:
                reason = str(failure)
            except (httpx.HTTPError, httpx.StreamError, OSError) as error:
                reason = type(error).__name__
        # Not the URL: it may hold a signature that is as good as a key.
        logger.info("an image was not fetched: %s", reason)
        raise ImageFetchError(
            "the image could not be had from its URL; a public host must serve a picture of at "
            f"most {self._max_bytes / 2**20:g} MiB there, over https, within "
            f"{self._timeout_s:g} s",
            loc,
        )

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise RateLimitError("too many images are being fetched", 1) from None
        try:
            yield
        finally:
            self._slots.release()

    async def _follow(self, url: httpx.URL) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self._get(url)
            if isinstance(answer, bytes):
                return answer
            try:
                url = check_image_url(str(url.join(answer)), self._hosts, ())
            except (ImageUrlNotAllowedError, httpx.InvalidURL, ValueError):
                raise _Failure("it was redirected to where it must not go") from None
        raise _Failure("it was redirected too often")

    async def _get(self, url: httpx.URL) -> bytes | str:
        """The file, or where a redirect points."""
        endpoints = await self._resolve(url.raw_host.decode("ascii"))
        # A name with a private address beside a public one is refused as a whole.
        if not endpoints or not all(self._is_allowed(ip_address(host)) for host, _ in endpoints):
            raise _Failure("its host has an address that is not public, or none")
        for host, port in endpoints[:_MAX_ADDRESSES]:
            try:
                return await self._get_from(url, host, port)
            except httpx.ConnectError as error:
                unreachable = error
        raise unreachable

    async def _get_from(self, url: httpx.URL, address: str, port: int) -> bytes | str:
        name = url.raw_host.decode("ascii")
        connections: list[Any] = []

        async def remember(event: str, details: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                connections.append(details["return_value"])

        request = httpx.Request(
            "GET",
            url.copy_with(host=address, port=port),
            headers={
                "Host": name,
                "Accept": "image/*",
                "Accept-Encoding": "identity",
                "User-Agent": "phi3v-server",
                "Connection": "close",
            },
            extensions={"sni_hostname": name, "trace": remember},
        )
        assert self._tls is not None  # there are hosts, or no URL would have passed
        # A transport, and not a client, which would add a client's conveniences; one for each
        # request, so that no connection is reused for another name at the same address.
        try:
            async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
                response = await transport.handle_async_request(request)
                try:
                    if response.status_code in _REDIRECTS:
                        return str(response.headers.get("Location", ""))
                    return await self._read(response)
                finally:
                    await response.aclose()
        finally:
            # Cancelled during its handshake, a connection would stay as long as the host likes.
            for connection in connections:
                await connection.aclose()

    async def _read(self, response: httpx.Response) -> bytes:
        if response.status_code != 200:
            raise _Failure(f"its host answered {response.status_code}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _Failure("its host packed it, unasked")
        data = bytearray()
        # As it comes, in small pieces; a length that is stated proves nothing.
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > self._max_bytes:
                raise _Failure("it is too large")
        if not begins_like_a_picture(data):
            raise _Failure("it is no picture")
        return bytes(data)

    async def _ask_dns(self, name: str) -> list[Endpoint]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)
        )
        return [(str(address[0]), int(address[1])) for *_, address in found]
