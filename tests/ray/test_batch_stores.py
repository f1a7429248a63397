"""Stores of files whose libraries raise errors of their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("ray")

from server.client.errors import ClientError, PictureFileError  # noqa: E402
from server.ray.batch.parquet_rows import ParquetRows  # noqa: E402
from server.ray.batch.parts import Parts  # noqa: E402
from server.ray.batch.source import Source, Start  # noqa: E402


class NoCredentialsError(Exception):
    """No OSError, as those of S3's library are none."""


class Locked(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A store without a key to it."""

    protocol = "locked"

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NoCredentialsError("Unable to locate credentials\nand more of that")

    info = ls = open = _open = cat_file = makedirs = pipe_file = _refuse


@pytest.fixture(scope="module", autouse=True)
def locked() -> None:
    fsspec.register_implementation("locked", Locked, clobber=True)


PATH = "bucket/questions.jsonl"
URL = f"locked://{PATH}"


@pytest.mark.parametrize(
    "attempt",
    [
        lambda folder: Source(URL).find(str(folder)),
        lambda folder: list(Source(URL).lines(PATH, Start(), None, ParquetRows())),
        lambda folder: Parts(URL).open(restart=False),
        lambda folder: Parts(URL).answers("1"),
        lambda folder: Parts(URL).write_answers("1", [b"{}\n"]),
    ],
    ids=["find", "read", "open", "go on", "write"],
)
def test_a_store_without_a_key_is_told_in_a_line(
    attempt: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(ClientError) as raised:
        attempt(tmp_path)
    said = str(raised.value)
    assert said.startswith("locked://bucket/questions.jsonl cannot be ")
    assert said.endswith(": Unable to locate credentials")


def test_a_picture_there_fails_its_line_alone() -> None:
    with pytest.raises(PictureFileError, match="Unable to locate credentials"):
        Source(URL).picture_url(PATH, "dog.png")


def test_a_store_that_nobody_knows_is_told_in_a_line() -> None:
    with pytest.raises(ClientError, match="cannot be read: Protocol not known: nowhere"):
        Source("nowhere://bucket/in.jsonl")
