"""A batch's input: files on this machine or at any URL that fsspec knows, JSONL or Parquet."""

import json
import posixpath
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ...batch.lines import BadLine, BatchRequest, Place, parse_line, split_lines
from ...client.errors import ClientError, PictureFileError
from ...client.picture_file import MAX_MIB, content_url, to_data_url
from ...json_body import decode
from .parquet_rows import ParquetRows
from .store_errors import store_errors

PARQUET = ".parquet"
_SUFFIXES = (".jsonl", ".ndjson", PARQUET)
# What a row need not say: a batch has no other, and a column of it is waste.
_DEFAULTS = {"method": "POST", "url": "/v1/chat/completions"}


@dataclass(frozen=True)
class Start:
    """Where in a file reading begins. number: of the first line there, counted from 1; offset: in
    bytes, or of a Parquet file in row groups; skipped: rows before it in its row group."""

    number: int = 1
    offset: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class SourceLine:
    """A line, empty ones left out, and where it begins."""

    start: Start
    line: BatchRequest | BadLine


class Source:
    """Where a batch's files lie. A worker elsewhere to which it is sent reads the same ones, by the
    file system's own paths: a URL made of one may lack the host or the account."""

    def __init__(self, location: str) -> None:
        self._location = location
        with store_errors(location, "read"):
            self._files, self._path = url_to_fs(location)

    def find(self, output: str) -> list[str]:
        """The paths of a file, of a directory's batch files, or of what a glob matches; in order.
        What lies in the output is no input. Raises ClientError where there are none."""
        files, path = self._files, self._path
        with store_errors(self._location, "read"):
            # First, as over HTTP `isdir` reads a file for its links.
            if path.lower().endswith(_SUFFIXES) and files.isfile(path):
                found = [path]
            elif files.isdir(path):
                found = [name for name in files.find(path) if name.lower().endswith(_SUFFIXES)]
            elif files.exists(path):
                found = [path]
            else:
                found = files.glob(path)
            output_files, folder = url_to_fs(output)
        if output_files == files:
            inside = folder.rstrip("/") + "/"
            found = [name for name in found if not name.startswith(inside)]
        if not found:
            raise ClientError(f"{self._location} cannot be read: there is no such file")
        return sorted(found)

    def url(self, file: str) -> str:
        """For messages."""
        return str(self._files.unstrip_protocol(file))

    def lines(
        self, file: str, start: Start, name: str | None, rows: ParquetRows
    ) -> Generator[SourceLine, None, None]:
        """From there to the end, as it is asked for. name: where lines are told to stand, if there
        are several files. Raises ClientError for what cannot be read, and is no Parquet file of a
        batch."""
        with store_errors(self.url(file), "read"):
            if file.lower().endswith(PARQUET):
                with closing(rows.read(self._files, file, start.offset, start.skipped)) as found:
                    for number, (group, place, row) in enumerate(found, start=start.number):
                        line = _to_line(row)
                        parsed = parse_line(line, Place(number, name), len(line))
                        yield SourceLine(Start(number, group, place), parsed)
                return
            # Buffered, as most stores' own `readline` takes no limit.
            with self._files.open(file, "rb") as opened, BufferedReader(opened) as lines:
                lines.seek(start.offset)
                offset = start.offset
                for number, (line, num_bytes) in enumerate(split_lines(lines), start=start.number):
                    if line.strip():
                        parsed = parse_line(line, Place(number, name), num_bytes)
                        yield SourceLine(Start(number, offset), parsed)
                    offset += num_bytes

    def picture_url(self, file: str, path: str) -> str:
        """A picture that a line of the file names by path, as a data URL. Paths begin beside the
        file; absolute ones are this machine's. Raises PictureFileError."""
        beside = posixpath.join(posixpath.dirname(file), path)
        if path.startswith("/") or isinstance(self._files, LocalFileSystem):
            return to_data_url(Path(beside))
        shown = self.url(beside)
        with store_errors(f"the picture {shown}", "read", PictureFileError):
            with self._files.open(beside, "rb") as opened:
                content = opened.read((MAX_MIB << 20) + 1)
            if len(content) > MAX_MIB << 20:
                raise PictureFileError(f"the picture {shown} has more than {MAX_MIB} MiB")
            return content_url(content, shown)


def _to_line(row: dict[str, Any]) -> bytes:
    """A row as a line of JSON, whose body is a text of JSON or a struct. What a struct's rows do
    not have in common is null in them: no key of theirs. Values that JSON has none of are texts."""
    body = _without_nulls(row["body"])
    if isinstance(body, str):
        with suppress(json.JSONDecodeError):  # else it is told to be no object
            body = decode(body.encode())
    rest = {name: value for name, value in row.items() if value is not None}
    return json.dumps({**_DEFAULTS, **rest, "body": body}, default=str).encode()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
