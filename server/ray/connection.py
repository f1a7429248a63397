"""This process's connection to a cluster."""

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError

from ..settings import Settings, SettingsError

# A machine in reach answers in far less; Ray itself would try for minutes, and say nothing.
_REACH_S = 5.0
_PACKAGES = Path(__file__).parents[2]
_NAMES = ("server", "scoring", "model_config")


@contextmanager
def connection(settings: Settings, *, log_to_driver: bool = True) -> Iterator[None]:
    """To the cluster at ray_address, or to one that is started here and ends with it. Ray puts its
    own signal handlers in place. Raises SettingsError where nobody is at the address, or somebody
    who asks for another token, or a module here would be taken for ours."""
    _check_directory()
    if settings.ray_address is None:
        _choose_token()
    elif settings.ray_address != "auto":
        _check_reach(settings.ray_address)
    try:
        ray.init(
            # None would be a cluster that RAY_ADDRESS or a file of the last `ray start` names.
            settings.ray_address or "local",
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


def _check_directory() -> None:
    """Ray puts the current directory first in its workers' path."""
    here = Path.cwd()
    if here == _PACKAGES:
        return
    for name in _NAMES:
        for module in (here / f"{name}.py", here / name / "__init__.py"):
            if module.exists():
                raise SettingsError(
                    f"the cluster's workers would take {module.relative_to(here)} for this "
                    "program's own: run it in another directory"
                )


def _choose_token() -> None:
    """For a cluster of our own, unless the user has. Ray would write one into the home directory,
    which a container's user may not have. The cluster's processes inherit it."""
    if not any(name.startswith("RAY_AUTH_") for name in os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


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
