"""Whether an address can be listened on, asked before anything is loaded."""

import errno
import socket

from .settings import SettingsError


def check_port(host: str, port: int) -> None:
    """Raises SettingsError, in one line, where the address is taken, forbidden or not ours."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            # As uvicorn does: a port that was just left is free.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen()
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        why = "it is in use" if is_taken else error.strerror or type(error).__name__
        raise SettingsError(f"{host}:{port} cannot be listened on: {why}") from error
