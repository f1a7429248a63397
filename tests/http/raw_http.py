"""Bytes to a server and back, for what no HTTP library would send."""

import socket
import struct
from contextlib import suppress
from urllib.parse import urlsplit

from .running_server import Endpoint


def connect(server: Endpoint) -> socket.socket:
    address = urlsplit(server.base_url)
    return socket.create_connection((address.hostname, address.port), timeout=10)


def connect_with_small_buffer(server: Endpoint) -> socket.socket:
    """Of what is sent to it, little fits in before it is read."""
    address = urlsplit(server.base_url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect((address.hostname, address.port))
    return connection


def hang_up_hard(connection: socket.socket) -> None:
    """Close with a reset instead of a goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def exchange(
    server: Endpoint, sent: bytes, *, half_close: bool = False, hang_up: bool = False
) -> bytes:
    """Send, and read until the server closes; or hang up at once. half_close: say that no more
    will be sent, where the server would wait for it; some take that for a hang-up."""
    with connect(server) as connection:
        with suppress(OSError):  # the server may hang up before it has all
            connection.sendall(sent)
            if hang_up:
                return b""
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        return received
