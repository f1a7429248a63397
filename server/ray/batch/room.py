"""A worker's room for blocks: several at once, or one that must be alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """Of num_places."""

    def __init__(self, num_places: int) -> None:
        self._num_places = num_places
        self._places = threading.Semaphore(num_places)
        # One at a time waits: two who want all places would hold some of them for ever.
        self._door = threading.Lock()

    @contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        """Wait for a place, or for all of them, and hold it meanwhile."""
        num_places = self._num_places if alone else 1
        with self._door:
            for _ in range(num_places):
                self._places.acquire()
        try:
            yield
        finally:
            self._places.release(num_places)
