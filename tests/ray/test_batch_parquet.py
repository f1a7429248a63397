"""How much of a Parquet file is read for its blocks. Bytes are counted, not time."""

import io
import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("ray")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from fsspec.implementations.local import LocalFileSystem  # noqa: E402

from server.batch.lines import BatchRequest  # noqa: E402
from server.batch.seen_ids import SeenIds  # noqa: E402
from server.ray.batch.blocks import Block, find_blocks  # noqa: E402
from server.ray.batch.parquet_rows import ParquetRows  # noqa: E402
from server.ray.batch.source import Source  # noqa: E402

from ..commands.batch_files import line  # noqa: E402

_NUM_ROWS = 3000
_READS: list[int] = []


class CountedFile(io.FileIO):
    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        _READS.append(len(content))
        return content


class Counted(LocalFileSystem):  # type: ignore[misc]
    """A store that tells how much of it is read."""

    protocol = "counted"

    def open(self, path: str, *_: Any, **__: Any) -> CountedFile:
        return CountedFile(path)


@pytest.fixture(scope="module", params=[_NUM_ROWS, 100], ids=["one group", "groups of 100"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 6 MB, which do not get smaller."""
    fsspec.register_implementation("counted", Counted, clobber=True)
    digits = random.Random(0)
    rows = [line(f"r{n}", digits.randbytes(1000).hex()) for n in range(_NUM_ROWS)]
    ids, bodies = zip(*((row["custom_id"], json.dumps(row["body"])) for row in rows), strict=True)
    path = tmp_path_factory.mktemp("parquet") / "in.parquet"
    table = pa.table({"custom_id": ids, "body": bodies})
    pq.write_table(table, path, row_group_size=request.param, compression=None)
    return path


@pytest.fixture
def source(file: Path) -> Source:
    return Source(f"counted://{file}")


@pytest.fixture
def blocks(file: Path, source: Source) -> list[Block]:
    with closing(SeenIds()) as nothing:
        found = list(find_blocks(source, [str(file)], nothing))
    _READS.clear()
    return found


@pytest.fixture
def worker() -> Iterator[ParquetRows]:
    with closing(ParquetRows()) as rows:
        yield rows


def ids_of(blocks: list[Block], source: Source, rows: ParquetRows) -> list[str]:
    lines = [line for block in blocks for line in block.lines(source, rows)]
    return [line.custom_id for line in lines if isinstance(line, BatchRequest)]


@pytest.mark.parametrize("order", ["as they are", "every other", "about as they are"])
def test_a_workers_blocks_cost_one_pass_over_the_file(
    file: Path, source: Source, blocks: list[Block], worker: ParquetRows, order: str
) -> None:
    """Each block read its row group from the beginning, and all of a column of it at once. Pyarrow
    puts up to a million rows into a group: thousands of blocks."""
    if order == "every other":
        blocks = blocks[::2]
    elif order == "about as they are":
        noise = random.Random(0)
        places = [place + noise.uniform(0, 4) for place in range(len(blocks))]
        blocks = [
            block for _, block in sorted(zip(places, blocks, strict=True), key=lambda x: x[0])
        ]
    expected = [f"r{n}" for block in blocks for n in range(block.start.number - 1, block.end)]
    assert ids_of(blocks, source, worker) == expected
    size = file.stat().st_size
    assert sum(_READS) < (1.2 if order != "about as they are" else 4) * size
    assert max(_READS) < 0.4 * size, "a page, a third of them"


def test_a_block_that_comes_again_is_read_again(
    source: Source, blocks: list[Block], worker: ParquetRows
) -> None:
    """It was a dead worker's."""
    for place in (20, 21, 3, 22, 3):
        first = blocks[place].start.number - 1
        assert ids_of([blocks[place]], source, worker)[0] == f"r{first}"
