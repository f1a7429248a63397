"""`phi3v batch` on a pipe, whose writer takes its time."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..http.running_server import wait_until
from .batch_files import Output, line, num_lines, started_batch, write_lines
from .unsteady_server import unsteady_server


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@contextmanager
def held(pipe: Path, *texts: str) -> Iterator[None]:
    """The pipe with a line for each text, and its end only when this is left."""
    descriptor = os.open(pipe, os.O_RDWR)  # for writing alone it would wait for a reader
    try:
        write_lines(pipe, [line(text, text) for text in texts])
        yield
    finally:
        os.close(descriptor)


def test_answers_come_while_the_pipe_is_held(pipe: Path, out: Path) -> None:
    with (
        unsteady_server(lambda *_: 200) as server,
        started_batch(pipe, out, "--url", server.url) as batch,
    ):
        with held(pipe, "a", "b"):
            wait_until(lambda: num_lines(out) == 2, 20, "two lines are answered")
            write_lines(pipe, [line("c", "c")])
            wait_until(lambda: num_lines(out) == 3, 5, "a third is answered")
        assert batch.wait(5) == 0
    assert Output(out).ids == ["a", "b", "c"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_batch_whose_pipe_is_held_and_it_goes_on(
    pipe: Path, out: Path, number: signal.Signals
) -> None:
    """Nothing was heard while the next line was waited for. What is in flight finishes."""

    def conduct(text: str, _: int) -> int:
        time.sleep(1 if text == "slow" else 0)
        return 200

    with unsteady_server(conduct) as server:
        at = ["--url", server.url]
        with started_batch(pipe, out, *at) as batch, held(pipe, "a", "slow"):
            wait_until(lambda: num_lines(out) == 1 and "slow" in server.tries, 20, "one is asked")
            batch.send_signal(number)
            assert batch.wait(5) == 128 + number
            assert batch.stderr is not None
            assert batch.stderr.read() == f"phi3v: {number.name}: stopped; run it again to go on\n"
        assert Output(out).ids == ["a", "slow"]

        with started_batch(pipe, out, *at) as batch:
            with held(pipe, "a", "slow", "b"):
                wait_until(lambda: num_lines(out) == 3, 20, "the rest is answered")
            assert batch.wait(5) == 0
    assert Output(out).ids == ["a", "b", "slow"]
    assert set(server.tries.values()) == {1}
