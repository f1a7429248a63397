"""A batch's output: a directory, here or at a URL, in which each block of lines has a file of
answers, `part-….jsonl`, and one of failures, `failed-….jsonl`, if there are any. Files are there
whole or not at all.
"""

import posixpath
import uuid
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from io import BufferedReader

from fsspec import AbstractFileSystem
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
            for name in self._names(*gone):
                self._files.rm_file(self._path(name))
            for path in map(self._path, self._names("part-*.jsonl")):
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
        # Buffered, as most stores' own `readline` takes no limit.
        with self._files.open(path, "rb") as opened, BufferedReader(opened) as lines:
            for line, _ in split_lines(lines):
                try:
                    result = parse_result(line)
                except ValueError:
                    raise ClientError(
                        f"{path} is not of a batch's output; --restart overwrites it"
                    ) from None
                yield result, line.removesuffix(b"\n") + b"\n"  # an editor may leave the last out

    def _write(self, name: str, content: bytes) -> None:
        """No file, if there is nothing to be in it."""
        unfinished = self._path(f"{_UNFINISHED}{uuid.uuid4().hex}")
        with store_errors(self._location, "written"):
            if not content:
                if self._files.exists(self._path(name)):
                    self._files.rm_file(self._path(name))
                return
            self._files.pipe_file(unfinished, content)
            self._move(unfinished, self._path(name))

    def _move(self, path: str, to: str) -> None:
        if type(self._files).mv is not AbstractFileSystem.mv:
            self._files.mv(path, to)
        else:  # a store that only copies; `mv` would take a bracket in the path for a pattern
            self._files.cp_file(path, to)
            self._files.rm_file(path)

    def _names(self, *patterns: str) -> list[str]:
        """Those in the directory that match, in order."""
        try:
            # No glob: the directory's own name may have a bracket.
            found = self._files.ls(self._folder, detail=False)
        except FileNotFoundError:  # a store that has no empty directories
            return []
        names = map(posixpath.basename, found)
        return sorted(name for name in names if any(fnmatchcase(name, one) for one in patterns))

    def _path(self, name: str) -> str:
        return posixpath.join(self._folder, name)
