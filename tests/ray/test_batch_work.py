"""How full a worker keeps its engine."""

from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("ray")

from server.batch.seen_ids import SeenIds
from server.ray.batch.blocks import find_blocks
from server.ray.batch.source import Source
from server.ray.batch.work import Work

from ..commands.batch_files import line, started_batch, write_lines
from ..http.running_server import wait_until
from .test_batch import FLAGS, TIMEOUT_S, VARIABLES, Parts, num_running, workers_of

_MIB = 1 << 20


def work_of(file: Path) -> Work:
    work = Work()
    with closing(SeenIds()) as nothing:
        for block in find_blocks(Source(str(file)), [str(file)], nothing):
            work.add(block)
    return work


@pytest.mark.parametrize(("concurrency", "blocks_at_once"), [(1, 2), (64, 2), (65, 3), (1024, 32)])
def test_small_lines_are_in_as_many_blocks_as_hold_twice_the_concurrency(
    concurrency: int, blocks_at_once: int, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "in.jsonl", [line(f"{n}", "hi") for n in range(640)])
    assert work_of(file).blocks_at_once(concurrency) == blocks_at_once


def test_large_lines_are_in_more_blocks_whose_memory_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    write_lines(file, (line(f"{n}", "x" * (4 * _MIB - 1000)) for n in range(16)))
    work = work_of(file)
    assert (work.num_lines, len(work.blocks)) == (16, 4)
    assert work.blocks_at_once(8) == 4
    assert work.blocks_at_once(64) == 32
    assert work.blocks_at_once(1024) == 64, "a GiB of lines"


def test_an_engine_has_as_many_lines_as_it_takes(demo_checkpoint: Path, tmp_path: Path) -> None:
    """Two blocks of 64 lines were all that a worker had, whatever --concurrency said."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    write_lines(source, [line(f"l{n}", f"Say {n}", max_tokens=300) for n in range(400)])
    arguments = (str(source), str(output), "--model", str(demo_checkpoint), *FLAGS)
    arguments = (*arguments, "--replicas", "1", "--concurrency", "200")
    most = 0

    def is_full() -> bool:
        nonlocal most
        most = max([most, *map(num_running, workers_of(process.pid))])
        return most > 190 or process.poll() is not None

    with started_batch(*arguments, PHI3V_MAX_NUM_SEQS="256", **VARIABLES) as process:
        wait_until(is_full, TIMEOUT_S, "the engine is full")
        _, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, stderr
    assert 190 < most <= 200
    assert len(Parts(output).answers) == 400
