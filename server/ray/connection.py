"""This process's connection to a cluster."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from ..settings import Settings, SettingsError


@contextmanager
def connection(settings: Settings, *, log_to_driver: bool = True) -> Iterator[None]:
    """To the cluster at ray_address, or to one that is started here and ends with it. Ray puts its
    own signal handlers in place. Raises SettingsError where nobody is at the address."""
    try:
        ray.init(
            settings.ray_address,
            namespace="phi3v",
            include_dashboard=None if settings.ray_address else False,
            log_to_driver=log_to_driver,
            logging_level=logging.WARNING,
        )
    except ConnectionError as error:
        raise SettingsError(f"ray_address is {settings.ray_address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
