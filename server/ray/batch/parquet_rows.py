"""Rows of Parquet files, from any place on.

A row group can only be read from its beginning. Pyarrow's has a million rows: would each block of
64 begin there, it would be read thousands of times. So a pass over a file, once begun, is kept for
the blocks that come after.
"""

import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem
from pyarrow.parquet import ParquetFile

from ...client.errors import ClientError

_COLUMNS = ("custom_id", "method", "url", "body")
# Decoded at once.
_ROWS = 16
# Of a column, read at once, or a page if that is more. Unset, all that a row group has of it.
_READ = {"pre_buffer": False, "buffer_size": 1 << 20}
# Kept, as blocks come about in order only: a worker's threads fetch theirs at the same time.
_MAX_PASSES = 8


class ParquetRows:
    """For several threads, one of which reads at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passes: list[_Pass] = []  # the one used last stands last

    def read(
        self, files: AbstractFileSystem, path: str, group: int, skipped: int
    ) -> Generator[tuple[int, int, dict[str, Any]], None, None]:
        """Row group, place in it and content of each row from there to the end. Others wait until
        this is closed. Raises ClientError for what is no Parquet file of a batch."""
        with self._lock, ExitStack() as closing:
            one = self._take(path, (group, skipped)) or _Pass(files.open(path, "rb"), path)
            closing.callback(one.close)
            try:
                yield from one.rows(group, skipped)
            except GeneratorExit:  # its reader has enough
                closing.pop_all()
                self._keep(one)
                raise

    def close(self) -> None:
        for one in self._passes:
            one.close()

    def _take(self, path: str, start: tuple[int, int]) -> "_Pass | None":
        """The one that is nearest before the start."""
        passes = [one for one in self._passes if one.path == path and one.place <= start]
        if not passes:
            return None
        nearest = max(passes, key=lambda one: one.place)
        self._passes.remove(nearest)
        return nearest

    def _keep(self, one: "_Pass") -> None:
        self._passes.append(one)
        if len(self._passes) > _MAX_PASSES:
            self._passes.pop(0).close()


class _Pass:
    """Forward through an open file. place: its next row's group, and place there."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self.path = path
        self.place = (-1, 0)
        self._file = file
        try:
            self._parquet = ParquetFile(file, **_READ)
        except (ValueError, OSError) as error:  # pyarrow's are ValueErrors
            file.close()
            raise ClientError(f"{path} is no Parquet file: {error}") from error
        self._columns = [name for name in self._parquet.schema_arrow.names if name in _COLUMNS]
        if not {"custom_id", "body"} <= set(self._columns):
            file.close()
            raise ClientError(f"{path} has no columns custom_id and body")

    def rows(self, group: int, skipped: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """From there on. It may be closed at any row, and called again for a later one."""
        if self.place[0] != group:
            self._all = self._read(group)
        for batch, index in self._all:
            group_now, next_place = self.place
            if (group_now, next_place - 1) >= (group, skipped):
                (row,) = batch.slice(index, 1).to_pylist()
                yield group_now, next_place - 1, row

    def close(self) -> None:
        self._file.close()

    def _read(self, first_group: int) -> Iterator[tuple[Any, int]]:
        """Each row as a batch and an index, with self.place behind it."""
        for group in range(first_group, self._parquet.num_row_groups):
            place = 0
            for batch in self._parquet.iter_batches(
                _ROWS, row_groups=[group], columns=self._columns
            ):
                for index in range(len(batch)):
                    place += 1
                    self.place = (group, place)
                    yield batch, index
