"""The batch endpoint's scoring script, called as Azure ML's driver calls it: from another Python
process, with paths of files, its output folder and the model's in variables."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.commands.batch_files import Output, line, write_lines
from tests.http.pictures import plain_png
from tests.http.running_server import PROJECT, environment, wait_until

SCRIPT = PROJECT / "deploy" / "batch" / "score.py"
# -I: of this Python only the standard library, and nothing of the project's folder.
DRIVER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("score", sys.argv[1])
score = importlib.util.module_from_spec(spec)
spec.loader.exec_module(score)
score.init()
for mini_batch in sys.stdin:
    try:
        answer = score.run(json.loads(mini_batch))
    except Exception as error:
        answer = repr(error)
    print("->", json.dumps(answer), flush=True)
"""


class Driver:
    """A worker of the driver's, and what it writes."""

    def __init__(self, model: Path, folder: Path, log: Path, **variables: str) -> None:
        self.output = folder / "output"
        binaries = str(Path(sys.executable).parent)
        variables.setdefault("PATH", f"{binaries}:{environment()['PATH']}")
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", DRIVER, SCRIPT],
                cwd=folder,
                env=environment(
                    AZUREML_MODEL_DIR=str(model),
                    AZUREML_BI_OUTPUT_PATH=str(self.output),
                    PHI3V_DEVICE="cpu",
                    TMPDIR=str(folder),
                    **variables,
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def run(self, *files: Path) -> Any:
        """What run() returns, or the text of what it raises."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(file) for file in files]), file=self.process.stdin, flush=True)
        for said in self.process.stdout:
            if said.startswith("-> "):
                return json.loads(said[3:])
        pytest.fail("the driver ended")

    def server(self) -> psutil.Process:
        (server,) = [
            child
            for child in psutil.Process(self.process.pid).children()
            if "server.batch.leashed_server" in child.cmdline()
        ]
        return server


@contextmanager
def driver_of(model: Path, folder: Path, **variables: str) -> Iterator[Driver]:
    driver = Driver(model, folder, folder / "log", **variables)
    try:
        yield driver
    finally:
        driver.process.kill()
        driver.process.communicate()


@pytest.fixture(scope="module")
def driver(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with driver_of(demo_checkpoint, tmp_path_factory.mktemp("driver")) as driver:
        yield driver


def test_every_file_is_answered_into_one_of_its_own(driver: Driver, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, word in ((first, "one"), (second, "two")):
        folder.mkdir()
        (folder / "square.png").write_bytes(plain_png(40, 30))
        picture = {"type": "image_url", "image_url": {"url": "square.png"}}
        question = {"type": "text", "text": "What color is the square?"}
        write_lines(
            folder / "questions.jsonl",
            [
                line(f"{word}-text", f"Say {word}", max_tokens=4),
                line(f"{word}-picture", [question, picture], max_tokens=4),
                line(f"{word}-bad", "hi", max_tokens=-1),
            ],
        )
    files = [path for folder in (first, second) for path in sorted(folder.iterdir())]
    said = driver.run(*files)
    assert len(said) == len(files) == 4, "Azure ML counts what is returned"
    assert sum("2 answered, 1 failed" in one for one in said) == 2, said
    outputs = sorted(driver.output.iterdir())
    assert [path.name.split("-")[0] for path in outputs] == ["questions", "questions"]
    by_id = {one["custom_id"]: one for path in outputs for one in Output(path).lines}
    statuses = {name: one["response"]["status_code"] for name, one in by_id.items()}
    assert statuses == {
        f"{word}-{what}": status
        for word in ("one", "two")
        for what, status in (("text", 200), ("picture", 200), ("bad", 422))
    }


def test_equal_files_in_two_folders_are_answered_apart(driver: Driver, tmp_path: Path) -> None:
    """Each has the picture that lies beside it."""
    picture = {"type": "image_url", "image_url": {"url": "square.png"}}
    outputs, image_tokens = set(), set()
    for name, width in (("first", 40), ("second", 800)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "square.png").write_bytes(plain_png(width, 30))
        questions = write_lines(folder / "same.jsonl", [line("a", [picture], max_tokens=1)])
        (said,) = driver.run(questions)
        assert driver.run(questions) == [said], "a retry has its name again"
        output = driver.output / said.partition(":")[0]
        usage = Output(output).of("a")["response"]["body"]["usage"]
        outputs.add(output)
        image_tokens.add(usage["prompt_tokens_details"]["image_tokens"])
    assert len(image_tokens) == 2
    assert all(output.exists() for output in outputs)
    assert len(outputs) == 2


def test_a_file_that_is_no_batch_at_all_fails_its_mini_batch(
    driver: Driver, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.jsonl"
    gone.symlink_to(tmp_path / "nowhere")
    assert "FileNotFoundError" in driver.run(gone)
    questions = write_lines(tmp_path / "after.jsonl", [line("a", "hello", max_tokens=3)])
    assert len(driver.run(questions)) == 1


def test_an_answer_has_an_hour(driver: Driver) -> None:
    """Its first 170 seconds, an online endpoint's bound, were all that counted as its answer."""
    assert driver.server().environ()["PHI3V_MAX_REQUEST_S"] == "3600"


def test_a_server_that_died_is_started_again(driver: Driver, tmp_path: Path) -> None:
    questions = write_lines(tmp_path / "again.jsonl", [line("a", "hello", max_tokens=3)])
    dead = driver.server()
    dead.send_signal(signal.SIGKILL)
    # A mini-batch that comes before the process is quite gone fails, and Azure ML tries it again.
    wait_until(lambda: "1 answered, 0 failed" in driver.run(questions)[0], 30, "it is answered")
    assert driver.server().pid != dead.pid


def test_the_server_ends_with_a_worker_that_is_killed(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    questions = write_lines(tmp_path / "q.jsonl", [line("a", "hello", max_tokens=1)])
    with driver_of(demo_checkpoint, tmp_path) as driver:
        driver.run(questions)
        server = driver.server()
        driver.process.kill()
        wait_until(lambda: not server.is_running(), 30, "no server is left")


def test_without_a_model_the_worker_says_so(tmp_path: Path) -> None:
    with driver_of(tmp_path / "nothing", tmp_path) as driver:
        assert driver.process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert "RuntimeError: the server ended before it was ready" in log
    assert "nothing" in log, "the server's own words"


STUB_PYTHON = f"""#!{sys.executable}
# Of the server, that it is ready; its leash is stdin.
import http.server, sys, threading
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Ready)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
"""
STUB_PHI3V = f"""#!{sys.executable}
import os, sys
open(sys.argv[3], "a").close()
exec(os.environ["COMMAND"])
"""
RAISES = "raise RuntimeError('no memory is left')"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (RAISES, "could not be answered"),
        ("print('1 answered, 1 failed: out', flush=True); sys.exit(2)", "could not be answered"),
        (f"print('1 answered, a word, 1 failed'); {RAISES}", "could not be answered"),
        ("print('1 answered, 1 failed, 3 answered before: out'); sys.exit(1)", "3 answered before"),
        ("print('2 answered, 0 failed: out')", "2 answered, 0 failed"),
    ],
)
def test_a_command_that_breaks_off_fails_its_mini_batch(
    command: str, said: str, tmp_path: Path
) -> None:
    """A traceback's exit code is 1, as that of a batch in which lines failed, and the lines that it
    left out were lost."""
    for name, script in (("python", STUB_PYTHON), ("phi3v", STUB_PHI3V)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    questions = write_lines(tmp_path / "q.jsonl", [line("a", "hi")])
    with driver_of(tmp_path, tmp_path, PATH=str(tmp_path), COMMAND=command) as driver:
        answer = driver.run(questions)
        assert said in str(answer)
        assert driver.output.exists() == isinstance(answer, list)
