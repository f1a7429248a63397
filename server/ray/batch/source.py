"""A batch's input: files on this machine or at any URL that fsspec knows, JSONL or Parquet."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pyarrow.parquet import ParquetFile

from ...batch.lines import BadLine, BatchRequest, Place, parse_line, split_lines
from ...client.errors import ClientError, PictureFileError
from ...client.picture_file import MAX_MIB, content_url, to_data_url
from ...json_body import decode
from .store_errors import store_errors

PARQUET = ".parquet"
_SUFFIXES = (".jsonl", ".ndjson", PARQUET)
_COLUMNS = ("custom_id", "method", "url", "body")
_ROWS = 64
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


def find_files(location: str, output: str) -> list[str]:
    """The URLs of a file, of a directory's batch files, or of what a glob matches; in order. What
    lies in the output is no input. Raises ClientError where there are none."""
    with store_errors(location, "read"):
        file_system, path = url_to_fs(location)
        if file_system.isdir(path):
            found = [name for name in file_system.find(path) if name.lower().endswith(_SUFFIXES)]
        elif file_system.exists(path):
            found = [path]
        else:
            found = file_system.glob(path)
        output_system, folder = url_to_fs(output)
    files = [str(file_system.unstrip_protocol(name)) for name in sorted(found)]
    inside = str(output_system.unstrip_protocol(folder)).rstrip("/") + "/"
    files = [file for file in files if not file.startswith(inside)]
    if not files:
        raise ClientError(f"{location} cannot be read: there is no such file")
    return files


def read_lines(file: str, start: Start, name: str | None) -> Iterator[SourceLine]:
    """From there to the end, as it is asked for. name: where lines are told to stand, if there are
    several files. Raises ClientError for what cannot be read, and is no Parquet file of a batch."""
    with store_errors(file, "read"), fsspec.open(file, "rb") as opened:
        if file.lower().endswith(PARQUET):
            yield from _read_rows(opened, file, start, name)
            return
        opened.seek(start.offset)
        offset = start.offset
        for number, (line, num_bytes) in enumerate(split_lines(opened), start=start.number):
            if line.strip():
                parsed = parse_line(line, Place(number, name), num_bytes)
                yield SourceLine(Start(number, offset), parsed)
            offset += num_bytes


def _read_rows(opened: Any, file: str, start: Start, name: str | None) -> Iterator[SourceLine]:
    try:
        rows = ParquetFile(opened)
    except (ValueError, OSError) as error:  # pyarrow's are ValueErrors
        raise ClientError(f"{file} is no Parquet file: {error}") from error
    columns = [column for column in rows.schema_arrow.names if column in _COLUMNS]
    if not {"custom_id", "body"} <= set(columns):
        raise ClientError(f"{file} has no columns custom_id and body")
    number = start.number - start.skipped
    for group in range(start.offset, rows.num_row_groups):
        place = 0
        for batch in rows.iter_batches(_ROWS, row_groups=[group], columns=columns):
            if group == start.offset and place + len(batch) <= start.skipped:
                place += len(batch)
                continue
            for row in batch.to_pylist():
                if group > start.offset or place >= start.skipped:
                    line = _to_line(row)
                    parsed = parse_line(line, Place(number + place, name), len(line))
                    yield SourceLine(Start(number + place, group, place), parsed)
                place += 1
        number += rows.metadata.row_group(group).num_rows


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


def picture_url(file: str, path: str) -> str:
    """A picture that a line of the file names by path, as a data URL. Paths begin beside the file;
    absolute ones are this machine's. Raises PictureFileError."""
    file_system, name = url_to_fs(file)
    beside = PurePosixPath(name).parent / path
    if path.startswith("/") or isinstance(file_system, LocalFileSystem):
        return to_data_url(Path(beside))
    shown = file_system.unstrip_protocol(str(beside))
    with store_errors(f"the picture {shown}", "read", PictureFileError):
        if file_system.size(str(beside)) > MAX_MIB << 20:
            raise PictureFileError(f"the picture {shown} has more than {MAX_MIB} MiB")
        return content_url(file_system.cat_file(str(beside)), shown)
