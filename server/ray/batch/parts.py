"""A batch's output: a directory, here or at a URL, in which each block of lines has a file of
answers, `part-….jsonl`, and one of failures, `failed-….jsonl`, if there are any. Files are there
whole or not at all.
"""

import posixpath
import uuid
from collections.abc import Iterable, Iterator

from fsspec.core import url_to_fs

from ...batch.lines import split_lines
from ...batch.results import BatchResult, parse_result
from ...batch.seen_ids import SeenIds
from ...client.errors import ClientError
from .store_errors import store_errors

_UNFINISHED = "unfinished-"


class Parts:
    """Raises ClientError, from everything, for what cannot be read or written. A relative location
    is one in the directory in which this is made, also where it is sent to a worker elsewhere."""

    def __init__(self, location: str) -> None:
        self._location = location
        with store_errors(location, "written"):
            self._files, self._folder = url_to_fs(location)

    def open(self, *, restart: bool) -> SeenIds:
        """Make the directory → the ids that are answered in it. Failures leave it, as each will be
        tried again, and so does what a killed worker left unfinished. restart: nothing stays."""
        answered = SeenIds()
        with store_errors(self._location, "written"):
            if self._files.exists(self._folder) and not self._files.isdir(self._folder):
                raise ClientError(f"{self._location} is no directory; a cluster's output is one")
            self._files.makedirs(self._folder, exist_ok=True)
            gone = ["failed-*.jsonl", f"{_UNFINISHED}*"] + (["part-*.jsonl"] if restart else [])
            for pattern in gone:
                for path in self._files.glob(self._path(pattern)):
                    self._files.rm_file(path)
            for path in sorted(self._files.glob(self._path("part-*.jsonl"))):
                for result, _ in self._read(path):
                    answered.add(str(result.custom_id), path)
        return answered

    def answers(self, block: str) -> dict[str, bytes]:
        """What the block's part holds, by id; nothing if there is none yet."""
        path = self._path(f"part-{block}.jsonl")
        with store_errors(self._location, "read"):
            try:  # `exists` would take a store that does not answer for a file that is not there
                return {str(result.custom_id): line for result, line in self._read(path)}
            except FileNotFoundError:
                return {}

    def write_answers(self, block: str, lines: Iterable[bytes]) -> None:
        self._write(f"part-{block}.jsonl", b"".join(lines))

    def write_failures(self, block: str, results: Iterable[BatchResult]) -> None:
        self._write(f"failed-{block}.jsonl", b"".join(result.to_line() for result in results))

    def _read(self, path: str) -> Iterator[tuple[BatchResult, bytes]]:
        with self._files.open(path, "rb") as file:
            for line, _ in split_lines(file):
                try:
                    result = parse_result(line)
                except ValueError:
                    raise ClientError(
                        f"{path} is not of a batch's output; --restart overwrites it"
                    ) from None
                yield result, line

    def _write(self, name: str, content: bytes) -> None:
        """No file, if there is nothing to be in it."""
        unfinished = self._path(f"{_UNFINISHED}{uuid.uuid4().hex}")
        with store_errors(self._location, "written"):
            if not content:
                if self._files.exists(self._path(name)):
                    self._files.rm_file(self._path(name))
                return
            self._files.pipe_file(unfinished, content)
            self._files.mv(unfinished, self._path(name))

    def _path(self, name: str) -> str:
        return posixpath.join(self._folder, name)
