"""Input at URLs that say more than a path: a host, an archive. A worker reads the same."""

import json
import pickle
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("ray")

from server.batch.lines import BatchRequest, Place  # noqa: E402
from server.batch.results import error_of  # noqa: E402
from server.ray.batch.parquet_rows import ParquetRows  # noqa: E402
from server.ray.batch.parts import Parts  # noqa: E402
from server.ray.batch.source import Source, Start  # noqa: E402

from ..commands.batch_files import line  # noqa: E402
from ..http.pictures import data_url, plain_png  # noqa: E402

_PICTURE = plain_png(4, 3)
_ANSWER = error_of("a", "invalid_line", "", Place(1)).to_line()
_FILES = {
    "in/q.jsonl": f"{json.dumps(line('a', 'hi'))}\n".encode(),
    "in/dog.png": _PICTURE,
    "out/part-1.jsonl": _ANSWER,
}


class Hosted(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """As sftp, hdfs, smb and others: a URL's host is the file system's, no part of its paths."""

    protocol = "hosted"

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(host=host, **options)
        assert host == "there"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("hosted://there/")

    @staticmethod
    def _get_kwargs_from_urls(url: str) -> dict[str, str]:
        _, found, rest = url.partition("hosted://")
        return {"host": rest.partition("/")[0]} if found else {}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        names = [name for name in _FILES if name == path or name.startswith(f"{path}/")]
        if not names:
            raise FileNotFoundError(path)
        found = [{"name": name, "type": "file", "size": len(_FILES[name])} for name in names]
        return found if detail else names

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        return _FILES[path][start:end]


@pytest.fixture
def hosted() -> str:
    fsspec.register_implementation("hosted", Hosted, clobber=True)
    return "hosted://there/in/q.jsonl"


@pytest.fixture
def memory() -> str:
    for name, content in _FILES.items():
        fsspec.filesystem("memory").pipe(f"/{name}", content)
    return "memory://in"


@pytest.fixture
def archive(tmp_path: Path) -> str:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as file:
        for name, content in _FILES.items():
            file.writestr(name, content)
    return f"zip://in::{tmp_path}/in.zip"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http(tmp_path: Path) -> Iterator[str]:
    for name, content in _FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/in/q.jsonl"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("where", ["hosted", "memory", "archive", "http"])
def test_a_worker_finds_lines_and_pictures_where_the_url_says(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The host, the archive were lost, and beside an HTTP URL pictures were asked for at
    `http:/host/…`."""
    source = Source(request.getfixturevalue(where))
    (file,) = source.find(str(tmp_path / "out"))
    source = pickle.loads(pickle.dumps(source))
    (found,) = source.lines(file, Start(), None, ParquetRows())
    assert isinstance(found.line, BatchRequest)
    assert found.line.custom_id == "a"
    assert source.picture_url(file, "dog.png") == data_url(_PICTURE, "image/png")


def test_a_store_whose_files_have_few_methods_is_read(hosted: str) -> None:
    """Most stores': `readline` takes no limit there, and neither lines nor answers were read."""
    assert Parts("hosted://there/out").answers("1") == {"a": _ANSWER}


def test_only_a_store_of_its_own_has_the_output_in_the_input(
    hosted: str, memory: str, tmp_path: Path
) -> None:
    assert len(Source(hosted).find("in")) == 1
    assert len(Source(hosted).find("memory://in")) == 1
    fsspec.filesystem("memory").pipe("/in/out/part-1.jsonl", b"")
    assert len(Source(memory).find("memory://in/out")) == 1
