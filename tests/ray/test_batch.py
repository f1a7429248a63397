"""`phi3v batch --cluster ray` on a cluster of this machine: two workers, a server each."""

import datetime
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from server.batch.lines import BadLine, BatchRequest
from server.batch.whole_batch import run_on_ray
from server.settings import SettingsError

from ..commands.batch_files import line, run_batch, started_batch, write_lines
from ..deploy.test_container import free_port
from ..http.pictures import plain_png
from ..http.running_server import wait_until

FLAGS = ("--cluster", "ray", "--replicas", "2")
VARIABLES = {
    "PHI3V_DEVICE": "cpu",
    "PHI3V_KV_CACHE_GIB": "0.1",
    "PHI3V_REPLICA_CPUS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
TIMEOUT_S = 400.0


def answer(
    model: Path, source: Path | str, output: Path | str, *flags: str
) -> "subprocess.CompletedProcess[str]":
    arguments = (str(source), str(output), "--model", str(model), *FLAGS, *flags)
    return run_batch(*arguments, timeout_s=TIMEOUT_S, **VARIABLES)


class Parts:
    """What a directory of answers holds: whole lines, each answer in one part only."""

    def __init__(self, directory: Path) -> None:
        assert not list(directory.glob("unfinished-*"))
        self.answers = list(_lines(directory.glob("part-*.jsonl")))
        self.failures = list(_lines(directory.glob("failed-*.jsonl")))
        assert all(one["response"]["status_code"] == 200 for one in self.answers)

    @property
    def ids(self) -> Counter[str]:
        return Counter(one["custom_id"] for one in [*self.answers, *self.failures])


def _lines(files: Iterable[Path]) -> Iterable[dict[str, Any]]:
    for file in files:
        for text in file.read_text().splitlines():
            yield json.loads(text)


def workers_of(pid: int) -> list[psutil.Process]:
    """The actors of a batch that runs."""
    children = psutil.Process(pid).children(recursive=True)
    found = []
    for child in children:
        with suppress(psutil.Error):  # it has just ended
            if "MapWorker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def num_running(worker: psutil.Process) -> int:
    """Requests that its server's engine runs; 0 while there is none."""
    with suppress(psutil.Error, httpx.HTTPError):  # one of them has just ended
        for child in worker.children():
            for connection in child.net_connections("tcp"):
                if connection.status == "LISTEN":
                    url = f"http://127.0.0.1:{connection.laddr.port}/health/ready"
                    return int(httpx.get(url).json().get("running", 0))
    return 0


def working(pid: int, killed: Sequence[psutil.Process] = ()) -> psutil.Process | None:
    """A batch's worker whose engine runs requests, none of those that were killed."""
    others = (worker for worker in workers_of(pid) if worker not in killed)
    return next((worker for worker in others if num_running(worker)), None)


def test_files_of_both_kinds_are_answered_and_gone_on_with(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    import pyarrow as pa  # of the extra
    import pyarrow.parquet as pq

    source = tmp_path / "in"
    output = source / "out"  # where the second run must not look for questions
    source.mkdir()
    (source / "square.png").write_bytes(plain_png(40, 30))
    picture = {"type": "image_url", "image_url": {"url": "square.png"}}
    lines = [line(f"j{number}", f"Say {number}", max_tokens=2) for number in range(100)]
    lines[7] = line("j7", [{"type": "text", "text": "What is it?"}, picture], max_tokens=2)
    lines[8] = line("j8", "hi", max_tokens=-1)
    write_lines(source / "a.jsonl", [*lines, "no JSON", line("j3", "again")])
    rows = [line(f"p{number}", f"Say {number}", max_tokens=2) for number in range(70)]
    table = pa.table(
        {
            "custom_id": [row["custom_id"] for row in rows] + ["j5"],
            "body": [json.dumps(row["body"]) for row in rows] + ["{}"],
        }
    )
    pq.write_table(table, source / "b.parquet", row_group_size=30)

    done = answer(demo_checkpoint, f"file://{source}", f"file://{output}")
    assert done.returncode == 1, done.stderr
    assert "169 answered, 4 failed" in done.stdout
    first = Parts(output)
    expected = {f"j{number}" for number in range(100)} | {f"p{number}" for number in range(70)}
    assert {name for name in first.ids if name} == expected
    assert max(count for name, count in first.ids.items() if name) == 1
    by_id = {one["custom_id"]: one for one in first.answers}
    usage = by_id["j7"]["response"]["body"]["usage"]
    assert usage["prompt_tokens_details"]["image_tokens"] > 0
    why = sorted((one["error"] or {}).get("message", "refused") for one in first.failures)
    assert len(why) == 4
    assert "refused" in why
    assert any("it is not JSON" in one and "a.jsonl" in one for one in why)
    assert any("'j3' is that of line 4 of" in one for one in why)
    assert any("'j5' is that of line 6 of" in one for one in why)

    write_lines(source / "a.jsonl", [*lines[:8], line("j8", "hi", max_tokens=1), *lines[9:]])
    again = answer(demo_checkpoint, source, output)
    assert again.returncode == 1, again.stderr  # j5 stands twice still
    assert "1 answered, 1 failed, 169 answered before" in again.stdout
    second = Parts(output)
    assert {name for name in second.ids if name} == expected
    before = {one["custom_id"]: one["id"] for one in first.answers}
    after = {one["custom_id"]: one["id"] for one in second.answers}
    assert before.items() <= after.items(), "an answer stays as it is"


def test_a_parquet_body_is_one_value_whatever_it_holds(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from server.ray.batch.parquet_rows import ParquetRows
    from server.ray.batch.source import Source, Start

    def read(bodies: list[Any]) -> list[BatchRequest | BadLine]:
        ids = [f"r{number}" for number in range(len(bodies))]
        pq.write_table(pa.table({"custom_id": ids, "body": bodies}), tmp_path / "b.parquet")
        source = Source(str(tmp_path / "b.parquet"))
        (file,) = source.find(str(tmp_path / "out"))
        return [one.line for one in source.lines(file, Start(), None, ParquetRows())]

    spliced, text, whole = read(['{}, "method": "GET"', "hello", '{"n": 1}'])
    assert isinstance(spliced, BadLine)
    assert isinstance(text, BadLine)
    assert "body must be a JSON object" in spliced.message
    assert isinstance(whole, BatchRequest)
    assert whole.body == {"n": 1}
    (dated,) = read([{"day": datetime.date(2026, 11, 25), "n": None}])
    assert isinstance(dated, BatchRequest)
    assert dated.body == {"day": "2026-11-25"}


def test_a_block_that_must_be_alone_is_alone() -> None:
    """Else a line of its neighbour could be told to be what its worker died of."""
    from server.ray.batch.room import Room

    room, alone_inside, others_inside = Room(2), 0, 0
    seen: list[tuple[int, int]] = []

    def block(number: int) -> None:
        nonlocal alone_inside, others_inside
        alone = number % 3 == 0
        with room.taken(alone=alone):
            alone_inside += alone
            others_inside += not alone
            time.sleep(0.002)
            seen.append((alone_inside, others_inside))
            alone_inside -= alone
            others_inside -= not alone

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(block, range(60)))
    assert set(seen) <= {(1, 0), (0, 1), (0, 2)}
    assert (0, 2) in seen, "others share it"


def test_a_killed_worker_loses_and_doubles_nothing(demo_checkpoint: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    write_lines(source, [line(f"l{n}", f"Say {n}", max_tokens=8) for n in range(1000)])
    arguments = (str(source), str(output), "--model", str(demo_checkpoint), *FLAGS)
    with started_batch(*arguments, **VARIABLES) as process:
        for num_parts in (2, 5):
            wait_until(
                lambda n=num_parts: len(list(output.glob("part-*"))) >= n, TIMEOUT_S, "parts"
            )
            workers_of(process.pid)[0].send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, stderr
    parts = Parts(output)
    assert parts.ids == Counter({f"l{number}": 1 for number in range(1000)})
    assert not parts.failures


@pytest.mark.parametrize("restart", [False, True])
def test_where_no_cluster_is_the_output_stays_as_it_is(restart: bool, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [line("a", "hi"), line("b", "hi")])
    output = tmp_path / "out"
    output.mkdir()
    answered = {"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 200}}
    before = {
        write_lines(output / "part-1.jsonl", [{**answered, "error": None}]),
        write_lines(output / "failed-1.jsonl", [{"custom_id": "b"}]),
    }
    given = {"ray_address": f"127.0.0.1:{free_port()}"}
    with pytest.raises(SettingsError, match="nobody answers there"):
        run_on_ray(str(source), str(output), restart, given, None, {}, None, TIMEOUT_S)
    assert set(output.iterdir()) == before


def test_what_cannot_begin_says_why(demo_checkpoint: Path, tmp_path: Path) -> None:
    done = answer(demo_checkpoint, tmp_path / "nothing.jsonl", tmp_path / "out")
    assert done.returncode == 2
    assert "there is no such file" in done.stderr
    source = write_lines(tmp_path / "in.jsonl", [line("a", "hi")])
    done = answer(tmp_path / "no-model", source, tmp_path / "out")
    assert done.returncode == 2
    assert "no-model" in done.stderr
