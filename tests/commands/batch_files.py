"""Batch files, and `phi3v batch` over them."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..http.running_server import PROJECT, environment

URL = "/v1/chat/completions"


def line(custom_id: str, content: Any, **body: Any) -> dict[str, Any]:
    """A line of a batch's input: one user turn."""
    messages = [{"role": "user", "content": content}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": URL,
        "body": {"model": "any", "messages": messages, "temperature": 0, **body},
    }


def write_lines(path: Path, lines: Iterable[dict[str, Any] | str]) -> Path:
    """Texts stand as they are."""
    texts = (one if isinstance(one, str) else json.dumps(one) for one in lines)
    with path.open("w") as file:
        file.writelines(f"{text}\n" for text in texts)
    return path


class Output:
    """A batch's output file, every line of which must be whole."""

    def __init__(self, path: Path) -> None:
        text = path.read_text()
        assert text == "" or text.endswith("\n")
        self.lines = [json.loads(line) for line in text.splitlines()]
        for result in self.lines:
            assert list(result) == ["id", "custom_id", "response", "error"]
            assert (result["response"] is None) != (result["error"] is None)

    @property
    def ids(self) -> list[str]:
        """Of the lines that have one, in order of the alphabet."""
        return sorted(result["custom_id"] for result in self.lines if result["custom_id"])

    def of(self, custom_id: str) -> dict[str, Any]:
        (found,) = [result for result in self.lines if result["custom_id"] == custom_id]
        return dict(found)

    def said(self, custom_id: str) -> str:
        response = self.of(custom_id)["response"]
        assert response["status_code"] == 200, response
        return str(response["body"]["choices"][0]["message"]["content"])

    def errors(self) -> dict[int, str]:
        """The messages of lines that could not be sent, by line number."""
        errors = [result["error"] for result in self.lines if result["error"]]
        return {error["line"]: error["message"] for error in errors}


def run_batch(
    *arguments: str | Path,
    timeout_s: float = 60,
    program: Sequence[str] = ("-m", "server"),
    directory: Path = PROJECT,
    **variables: str,
) -> "subprocess.CompletedProcess[str]":
    """`phi3v batch …` to its end, in the directory. program: what is `phi3v`."""
    done = subprocess.run(
        [sys.executable, *program, "batch", *map(str, arguments)],
        cwd=directory,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@contextmanager
def started_batch(
    *arguments: str | Path, program: Sequence[str] = ("-m", "server"), **variables: str
) -> Iterator["subprocess.Popen[str]"]:
    """`phi3v batch …` on its way; killed at the end if it still runs. program: what is `phi3v`."""
    process = subprocess.Popen(
        [sys.executable, *program, "batch", *map(str, arguments)],
        cwd=PROJECT,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def assert_not_run(done: "subprocess.CompletedProcess[str]", reason: str) -> None:
    """Exit code 2, and one line that says why."""
    assert done.returncode == 2, done.stderr
    lines = [text for text in done.stderr.splitlines() if text.startswith("phi3v: ")]
    assert len(lines) == 1
    assert reason in lines[0]
