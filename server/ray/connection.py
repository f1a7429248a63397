"""This process's connection to a cluster."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from ..settings import Settings, SettingsError

# A machine in reach answers in far less; Ray itself would try for minutes, and say nothing.
_REACH_S = 5.0


@contextmanager
def connection(settings: Settings, *, log_to_driver: bool = True) -> Iterator[None]:
    """To the cluster at ray_address, or to one that is started here and ends with it. Ray puts its
    own signal handlers in place. Raises SettingsError where nobody is at the address, or somebody
    who asks for another token."""
    if settings.ray_address not in (None, "auto"):
        _check_reach(settings.ray_address)
    try:
        ray.init(
            settings.ray_address,
            namespace="phi3v",
            include_dashboard=None if settings.ray_address else False,
            log_to_driver=log_to_driver,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, AuthenticationError) as error:
        why = f"ray_address is {settings.ray_address!r}: {str(error).splitlines()[0]}"
        if settings.ray_address != "auto":
            why += "; if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise SettingsError(why) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise SettingsError(f"ray_address is {address!r}: it must be auto or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"ray_address is {address!r}: nobody answers there ({error})"
        ) from error
