"""What goes wrong at a store of files, for the user."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...client.errors import ClientError


@contextmanager
def store_errors(what: str, done: str, kind: type[ClientError] = ClientError) -> Iterator[None]:
    """Whatever a store's library raises becomes "{what} cannot be {done}", with its first line:
    the libraries of S3, Azure and the like have errors of their own, with nothing in common."""
    try:
        yield
    except ClientError:
        raise
    except Exception as error:
        raise kind(f"{what} cannot be {done}: {_why(error)}") from error


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first_line, _, _ = str(error).partition("\n")
    return first_line or type(error).__name__
