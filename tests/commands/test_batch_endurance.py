"""`phi3v batch` through what goes wrong: kills, signals, full and failing servers, long files."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from ..http.parrot import Parrot, parrot_server
from ..http.running_server import PROJECT, command, environment, wait_until
from .batch_files import (
    Output,
    assert_not_run,
    line,
    num_lines,
    run_batch,
    started_batch,
    write_lines,
)
from .unsteady_server import unsteady_server

GOOD = 470
TOTAL = 500


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """500 lines, of which 30 are bad."""
    lines = [line(f"id-{n:03}", f"say {n}") if n % 50 >= 3 else f"bad {n}" for n in range(TOTAL)]
    return write_lines(tmp_path / "in.jsonl", lines)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def assert_complete(out: Path) -> None:
    """Every good line is answered once, and every bad one told once."""
    output = Output(out)
    assert output.ids == [f"id-{n:03}" for n in range(TOTAL) if n % 50 >= 3]
    assert len(output.ids) == GOOD
    assert sorted(output.errors()) == [n + 1 for n in range(TOTAL) if n % 50 < 3]
    assert len(output.lines) == TOTAL
    assert all(output.said(i) == f"say {int(i[3:])}" for i in output.ids)


def test_a_killed_batch_goes_on_and_answers_every_line_once(
    demo_checkpoint: Path, file: Path, out: Path
) -> None:
    parrot = Parrot(demo_checkpoint, step_s=0.004)
    with parrot_server(demo_checkpoint, parrot) as server:
        at = ["--url", server.base_url, "--concurrency", "16"]
        for wanted in (100, 250):
            with started_batch(file, out, *at) as batch:
                wait_until(lambda: num_lines(out) >= wanted, 30, "lines are answered")  # noqa: B023
                batch.kill()
        # As if the last line had been half written.
        whole = out.read_bytes()
        out.write_bytes(whole[: len(whole.rstrip(b"\n")) - 40])
        done = run_batch(file, out, *at)
    assert done.returncode == 1
    assert "30 failed, " in done.stdout
    assert_complete(out)
    assert [path.name for path in out.parent.iterdir() if "rewritten" in path.name] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_is_in_flight_and_reads_no_more(
    demo_checkpoint: Path, file: Path, out: Path, number: signal.Signals
) -> None:
    parrot = Parrot(demo_checkpoint, step_s=0.004)
    with parrot_server(demo_checkpoint, parrot) as server:
        at = ["--url", server.base_url, "--concurrency", "4"]
        with started_batch(file, out, *at) as batch:
            wait_until(lambda: num_lines(out) >= 20, 30, "lines are answered")
            batch.send_signal(number)
            assert batch.wait(15) == 128 + number
            assert batch.stderr is not None
            assert "run it again to go on" in batch.stderr.read()
        assert 20 <= len(Output(out).lines) < TOTAL
        wait_until(server.is_idle, 5, "nothing is asked any more")
        parrot.step_s = 0.0
        assert run_batch(file, out, *at).returncode == 1
    assert_complete(out)


def test_a_second_signal_abandons_what_is_in_flight(
    demo_checkpoint: Path, tmp_path: Path, out: Path
) -> None:
    parrot = Parrot(demo_checkpoint, step_s=0.1)
    file = write_lines(tmp_path / "in.jsonl", [line("long", "," * 600)])
    with parrot_server(demo_checkpoint, parrot) as server:
        asked = server.parrot.num_steps
        with started_batch(file, out, "--url", server.base_url) as batch:
            wait_until(lambda: parrot.num_steps > asked + 3, 20, "it is being answered")
            batch.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            batch.send_signal(signal.SIGTERM)
            assert batch.wait(5) == 128 + signal.SIGTERM
        wait_until(server.is_idle, 5, "the server has let go of it")
    assert Output(out).lines == []


def test_a_full_server_is_waited_for(demo_checkpoint: Path, tmp_path: Path, out: Path) -> None:
    """One runs, nobody may wait: of four at once three are 429 with Retry-After."""
    parrot = Parrot(demo_checkpoint, step_s=0.005)
    lines = [line(str(number), "hello there") for number in range(4)]
    file = write_lines(tmp_path / "in.jsonl", lines)
    with parrot_server(demo_checkpoint, parrot, max_num_seqs=1, max_queued=0) as server:
        done = run_batch(file, out, "--url", server.base_url, "--concurrency", "4")
        refused = server.get("/metrics").text
    assert done.returncode == 0, done.stdout
    assert {Output(out).said(str(number)) for number in range(4)} == {"hello there"}
    assert 'code="429"' in refused


def test_what_may_pass_is_tried_again_and_what_may_not_is_not(tmp_path: Path, out: Path) -> None:
    def conduct(text: str, number: int) -> int | None:
        if text == "wrong":
            return 400
        if text == "broken" and number < 3:
            return None
        return 502 if text == "bad gateway" and number < 3 else 200

    texts = ("wrong", "broken", "bad gateway", "fine")
    file = write_lines(tmp_path / "in.jsonl", [line(text, text) for text in texts])
    with unsteady_server(conduct) as server:
        done = run_batch(file, out, "--url", server.url)
    assert done.returncode == 1
    assert server.tries == {"wrong": 1, "broken": 3, "bad gateway": 3, "fine": 1}
    output = Output(out)
    assert output.of("wrong")["response"]["status_code"] == 400
    assert output.said("broken") == output.said("bad gateway") == "at last"


def test_a_key_that_is_refused_midway_stops_the_batch(tmp_path: Path, out: Path) -> None:
    lines = [line(str(number), str(number)) for number in range(40)]
    file = write_lines(tmp_path / "in.jsonl", lines)
    with unsteady_server(lambda text, _: 401 if int(text) >= 10 else 200) as server:
        done = run_batch(file, out, "--url", server.url, "--concurrency", "1")
        assert_not_run(done, "401 not now")
    assert len(Output(out).lines) == 10
    assert len(server.tries) == 11


def peak_mib(file: Path, out: Path, url: str) -> float:
    """Memory of `phi3v batch`, at its most."""
    process = subprocess.Popen(
        command("batch", str(file), str(out), "--url", url, "--concurrency", "8"),
        cwd=PROJECT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 1  # some of the lines are bad
    return usage.ru_maxrss / 1024


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Files of 3 and 30 MB. Held as a whole, the second would show."""

    def lines(number: int):
        for n in range(number):
            yield line(str(n), "x" * 30_000) | ({"method": "GET"} if n % 2 else {})

    with unsteady_server(lambda *_: 200) as server:
        short = write_lines(tmp_path / "short.jsonl", lines(100))
        long = write_lines(tmp_path / "long.jsonl", lines(1000))
        little = peak_mib(short, tmp_path / "short-out.jsonl", server.url)
        much = peak_mib(long, tmp_path / "long-out.jsonl", server.url)
    assert num_lines(tmp_path / "long-out.jsonl") == 1000
    assert much < little + 12, (little, much)


def test_a_batch_has_a_server_of_its_own_and_takes_it_along(
    demo_checkpoint: Path, tmp_path: Path, out: Path
) -> None:
    """Its settings come by variables; stopped or killed, a batch leaves no server behind."""
    lines = [line(str(number), f"hi {number}", max_tokens=500) for number in range(6)]
    file = write_lines(tmp_path / "in.jsonl", lines)
    model = ["--model", demo_checkpoint]
    done = run_batch(file, out, *model, PHI3V_MAX_MODEL_LEN="64", PHI3V_API_KEY="another")
    assert done.returncode == 0, done.stderr
    usage = Output(out).of("0")["response"]["body"]["usage"]
    assert usage["total_tokens"] == 64

    lines = [line("short", "hi", max_tokens=4), line("long", "hi", max_tokens=8000)]
    file, begun = write_lines(tmp_path / "long.jsonl", lines), tmp_path / "begun.jsonl"
    with started_batch(file, begun, *model) as batch:
        wait_until(lambda: num_lines(begun) > 0 or batch.poll(), 60, "a line is answered")
        family = psutil.Process(batch.pid).children(recursive=True)
        assert any("leashed_server" in " ".join(one.cmdline()) for one in family)
        batch.kill()
    wait_until(lambda: not any(map(is_running, family)), 10, "its server is gone")


def test_a_server_py_in_the_users_directory_is_not_taken_for_its_server(
    demo_checkpoint: Path, tmp_path: Path, out: Path
) -> None:
    """`python -m` looks there first: a batch ran that file, and waited for it to listen. A relative
    --model begins there all the same."""
    (tmp_path / "server.py").write_text("raise SystemExit('another server')")
    (tmp_path / "model").symlink_to(demo_checkpoint)
    file = write_lines(tmp_path / "in.jsonl", [line("a", "hi", max_tokens=4)])
    # The command itself as `phi3v` is, which has no such path.
    program = ["-P", "-m", "server"]
    done = run_batch(file, out, "--model", "model", program=program, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Output(out).ids == ["a"]


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
