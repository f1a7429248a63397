"""Where a server is, and what it takes to be let in."""

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx

from .errors import ClientError

# A server that takes no connection within this is not there; answers take as long as they do.
_CONNECT_S = 10.0


@dataclass(frozen=True)
class Endpoint:
    """url: without a slash at its end, and without the /v1 that OpenAI's clients put there."""

    url: str
    key: str | None = None
    ca_file: Path | None = None

    def client(self, timeout_s: float | None = None) -> httpx.Client:
        """timeout_s: how long the server may say nothing. Close it. Raises ClientError."""
        return httpx.Client(**self._options(timeout_s))

    def async_client(self, timeout_s: float | None, max_connections: int) -> httpx.AsyncClient:
        """As client."""
        limits = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections
        )
        return httpx.AsyncClient(**self._options(timeout_s), limits=limits)

    def _options(self, timeout_s: float | None) -> dict[str, Any]:
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {self.key}"} if self.key else {},
            "timeout": httpx.Timeout(timeout_s, connect=_CONNECT_S),
            "verify": self._certificates(),
            # A proxy of this machine's surroundings does not know its loopback.
            "trust_env": not _is_loopback(httpx.URL(self.url).host),
        }

    def _certificates(self) -> ssl.SSLContext | bool:
        if not self.url.startswith("https://"):
            return False  # plain HTTP: loading certificates is most of what a client costs
        if self.ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ClientError(f"--ca-file {self.ca_file} cannot be used: {why}") from error


def to_endpoint(url: str, key: str | None, ca_file: Path | None) -> Endpoint:
    """Of what a command line says. key: one, or the server's own list of them, of which the first
    is taken. Raises ClientError."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ClientError(f"--url {url!r} cannot be read: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ClientError(f"--url {url!r} must begin with http:// or https:// and a host")
    first = key.split(",")[0].strip() if key else None
    if first and not (first.isascii() and first.isprintable()):
        raise ClientError("the key must be printable ASCII")
    return Endpoint(url.rstrip("/").removesuffix("/v1"), first, ca_file)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
