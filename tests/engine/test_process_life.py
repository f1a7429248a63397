"""The engine's process and its parent: it never outlives it, obeys it alone, and logs alike."""

import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import zmq

from scoring.engine_config import EngineConfig
from scoring.engine_link import Abort, Ended, Message, Outputs, Progress, Ready, Refused, Stop
from scoring.sequence import FinishReason, SamplingParams, Sequence
from scoring.wire import ENGINE_ID, Start, decode_message, encode_call

from . import toy_engine
from .engine_processes import PROJECT, TIMEOUT_S, has_ended, seconds_until
from .scripted import make_sequence


@contextmanager
def parent_of_an_engine(
    then: str, build: str = "build", level: str = "WARNING"
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process that has an engine's process, and that one's id. Neither is there afterwards."""
    program = f"""
    import asyncio, logging, sys
    import psutil
    from scoring.engine_client import EngineState
    from scoring.logs import configure_logging
    from scoring.sequence import SamplingParams, Sequence
    from tests.engine.engine_processes import started, tokens_of, until

    async def main():
        engine = await started({build!r})
        (child,) = psutil.Process().children()
        print(child.pid, flush=True)
        {then}

    configure_logging({level!r}, 'text')
    asyncio.run(main())
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = 0
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        yield parent, child
    finally:
        parent.kill()
        parent.communicate()
        if child and not has_ended(child):
            psutil.Process(child).kill()


READY = "await until(lambda: engine.state is EngineState.READY)"
BUSY = """
        asyncio.ensure_future(tokens_of(engine, Sequence("a", [1], SamplingParams(10**9))))
        await until(lambda: engine.stats.num_running)
"""
SAY_SO = "\n        print('there', flush=True)\n        await asyncio.sleep(600)"


@pytest.mark.parametrize(
    ("then", "build"),
    [
        (READY, "build"),
        (READY + BUSY, "build"),
        ("await until(lambda: engine.loaded_bytes == 30)", "build_for_ever"),
    ],
    ids=["idle", "busy", "loading"],
)
def test_it_is_gone_soon_after_its_parent_is_killed(then, build):
    with parent_of_an_engine(then + SAY_SO, build) as (parent, child):
        assert parent.stdout.readline() == "there\n"
        assert not has_ended(child)
        parent.kill()
        assert seconds_until(lambda: has_ended(child)) < 2


def test_it_is_gone_when_its_parent_ends_without_stopping_it():
    with parent_of_an_engine(READY) as (parent, child):
        parent.wait(TIMEOUT_S)
        assert seconds_until(lambda: has_ended(child)) < 2


def test_the_parent_needs_no_torch():
    then = READY + "\n        await engine.stop()\n        sys.exit('torch' in sys.modules)"
    with parent_of_an_engine(then) as (parent, _):
        assert parent.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(("level", "is_said"), [("INFO", True), ("WARNING", False)])
def test_it_logs_as_its_parent_does(level, is_said):
    then = READY + "\n        await engine.stop()"
    with parent_of_an_engine(then, level=level) as (parent, _):
        log, _ = parent.communicate(timeout=TIMEOUT_S)
    line = r"^\d{4}-\d\d-\d\d [\d:,]+ I tests\.engine\.toy_engine: the toy is built$"
    assert bool(re.search(line, log, re.MULTILINE)) == is_said, log


class Driver:
    """Stands in for the parent, frame by frame."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart([ENGINE_ID, *frames])

    def call(self, call: Start | Sequence | Abort | Stop) -> None:
        self.send(*encode_call(call))

    def receive(self) -> Message:
        assert self._socket.poll(int(TIMEOUT_S * 1000)), "nothing came"
        sender, frame = self._socket.recv_multipart()
        assert sender == ENGINE_ID
        return decode_message(frame)

    def tokens(self, sequence_id: str) -> list[int | None]:
        """Of one sequence, to its end; nothing else may run."""
        tokens: list[int | None] = []
        while True:
            message = self.receive()
            assert isinstance(message, Outputs), message
            for output in message.outputs:
                assert output.sequence_id == sequence_id
                tokens.append(output.token_id)
                if output.finish_reason is FinishReason.LENGTH:
                    return tokens


@contextmanager
def driven() -> Iterator[tuple[Driver, "subprocess.Popen[bytes]"]]:
    """A process that has connected, and its driver."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as directory,
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as socket,
    ):
        socket.linger = 0
        socket.bind(f"ipc://{directory}/engine")
        process = subprocess.Popen(
            [sys.executable, "-m", "scoring.engine_process", f"ipc://{directory}/engine"],
            cwd=PROJECT, stdin=subprocess.PIPE,
        )  # fmt: skip
        try:
            driver = Driver(socket)
            assert driver.receive() == Progress(0, 0)
            yield driver, process
        finally:
            process.kill()
            process.communicate()


START = Start(EngineConfig(Path("not", "read")), toy_engine.NAME + "build", 30, "text")


def test_garbage_in_place_of_calls_is_passed_over():
    with driven() as (driver, process):
        driver.send(b"\xc1")
        driver.send(*encode_call(make_sequence("too early", max_tokens=1)))
        driver.send()
        driver.call(START)
        while not isinstance(message := driver.receive(), Ready):
            assert isinstance(message, Progress)
        driver.send(b"garbage", b"in two frames")
        driver.send(b"\x91" * 100_000)
        driver.call(START)
        driver.call(make_sequence("a", max_tokens=20))
        driver.send(b"")
        assert driver.tokens("a") == list(range(20))

        bad = Sequence("bad", [1], SamplingParams(max_tokens="five"))
        driver.call(bad)
        driver.call(make_sequence("b", max_tokens=2))
        refused = driver.receive()
        assert isinstance(refused, Refused)
        assert (refused.sequence_id, refused.kind) == ("bad", "InvalidSequenceError")
        assert driver.tokens("b") == [0, 1]

        driver.call(Stop())
        assert driver.receive() == Ended(None)
        assert process.wait(TIMEOUT_S) == 0


def test_one_message_a_step_carries_everybodys_tokens():
    with driven() as (driver, _):
        driver.call(START)
        while not isinstance(driver.receive(), Ready):
            pass
        ids = {str(n) for n in range(64)}
        for sequence_id in ids:
            driver.call(make_sequence(sequence_id, max_tokens=100))
        messages = [driver.receive() for _ in range(100)]

        whole = [m for m in messages if {output.sequence_id for output in m.outputs} == ids]
        assert len(whole) > 30
        assert all(message.stats.num_running == 64 for message in whole[:-1])


def test_it_ends_with_its_standard_input():
    with driven() as (driver, process):
        driver.call(START)
        process.stdin.close()
        assert process.wait(2) == 1
