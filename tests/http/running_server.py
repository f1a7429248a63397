"""A server as an operator starts it: a process of its own on a loopback port that it chooses.

`assert_well` is what holds after everything that a caller can do: the probes answer, nothing runs
or waits, every block is free or cached, the log shows no traceback, and a greedy prompt gives the
text that it gave when the server was fresh.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

PROJECT = Path(__file__).resolve().parents[2]
START_S = 60.0
_LISTENING = re.compile(r"listening on (https?://127\.0\.0\.1:\d+)")
_OURS = ("PHI3V_", "AZUREML_", "HF_", "HUGGINGFACE_", "XDG_")


def user(text: str) -> dict[str, Any]:
    """A user's turn."""
    return {"role": "user", "content": text}


def counts(answer: dict[str, Any]) -> tuple[int, int]:
    """How many tokens prompt and answer have: the part of the usage that the prefix cache does
    not change."""
    usage = answer["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Poll until the condition is true, and return its value; fail after timeout_s."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {timeout_s:g} s still not so: {what}"
        time.sleep(0.02)


_GOLDEN = {"messages": [user("golden")], "temperature": 0, "max_tokens": 16}


def is_idle(state: dict[str, Any]) -> bool:
    """Nothing runs or waits, and no block is in use."""
    in_use = state["blocks_total"] - state["blocks_free"] - state["blocks_cached"]
    return (state["running"], state["waiting"], in_use) == (0, 0, 0)


class Endpoint:
    """Where a server listens, and the few things that tests ask of any."""

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        self.base_url = base_url
        self.api_key = api_key
        self.golden: str | None = None
        self.health_s = 1.0
        """Seconds that a health probe may take."""
        self._log_seen = 0

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return ""

    def client(self, **options: Any) -> httpx.Client:
        """A client with the key, if there is one. Close it."""
        headers = {"api-key": self.api_key} if self.api_key else {}
        return httpx.Client(
            **{"base_url": self.base_url, "headers": headers, "timeout": 60.0, **options},
            verify=False,  # plain HTTP: loading certificates is most of what a client costs
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.request(method, path, **options)

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, body: Any, **headers: str) -> httpx.Response:
        """POST /chat/completions; header names with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", "/chat/completions", json=body, headers=named)

    def post_bytes(self, content: bytes) -> httpx.Response:
        """POST /chat/completions with a body that is sent as it stands."""
        headers = {"Content-Type": "application/json"}
        return self.request("POST", "/chat/completions", content=content, headers=headers)

    def ask(self, content: Any, **parameters: Any) -> httpx.Response:
        """One user turn, greedy unless the parameters say otherwise."""
        body = {"messages": [{"role": "user", "content": content}], "temperature": 0}
        return self.post(body | parameters)

    def text(self, content: Any, **parameters: Any) -> str:
        """The answer's text. The request must succeed."""
        response = self.ask(content, **parameters)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    def fingerprint(self, *messages: dict[str, Any]) -> tuple[Any, ...]:
        """A greedy answer's tokens, their log-probabilities to three digits, and their
        numbers: alike only for prompts and pictures that are alike, even where a random model says
        the same."""
        body = {"messages": messages, "temperature": 0, "max_tokens": 8, "logprobs": True}
        response = self.post(body, extra_parameters="pass-through")
        assert response.status_code == 200, response.text
        answer = response.json()
        tokens = answer["choices"][0]["logprobs"]["content"]
        return [(t["token"], round(t["logprob"], 3)) for t in tokens], counts(answer)

    def state(self) -> dict[str, Any]:
        """What the readiness probe says."""
        return dict(self.get("/health/ready").json())

    def is_idle(self) -> bool:
        return is_idle(self.state())

    def new_log(self) -> str:
        """What was logged since this was asked last, so that a failure shows in one test only."""
        log, seen = self.log, self._log_seen
        self._log_seen = len(log)
        return log[seen:]

    def remember_golden(self) -> None:
        answer = self.post(_GOLDEN).json()
        self.golden = answer["choices"][0]["message"]["content"]


class RunningServer(Endpoint):
    """`phi3v serve` in a process of its own."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        log_file: Path,
        base_url: str,
        api_key: str | None,
    ) -> None:
        super().__init__(base_url, api_key)
        self.process = process
        self._log_file = log_file

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    @property
    def resources(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


def assert_well(server: Endpoint) -> None:
    """The server is as well as before."""
    with server.client(timeout=httpx.Timeout(60.0)) as client:
        assert client.get("/health/live", timeout=server.health_s).status_code == 200
        assert client.get("/health/ready", timeout=server.health_s).status_code == 200
        wait_until(
            lambda: is_idle(client.get("/health/ready").json()),
            2 * server.health_s,
            "the server is idle and all blocks are free or cached",
        )
        answer = client.post("/chat/completions", json=_GOLDEN).json()
    assert server.golden is not None
    assert answer["choices"][0]["message"]["content"] == server.golden
    assert "Traceback" not in server.new_log()


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what would steer a server, plus the given variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    # Idle servers share few cores with busy ones here: no thread of theirs should spin.
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | variables


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "server", *arguments]


def run_command(
    *arguments: str, timeout_s: float = 60.0, directory: Path = PROJECT, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """`phi3v …` to its end, its packages from the directory."""
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def spawned(
    log_file: Path,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    directory: Path = PROJECT,
) -> Iterator["subprocess.Popen[bytes]"]:
    """`phi3v …` in the background, its output in log_file, its packages from the directory. Killed
    at the end if it still runs."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command(*arguments),
            cwd=directory,
            env=environment(**(variables or {})),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


@contextmanager
def listening_server(
    log_file: Path,
    model: Path | str | None,
    *flags: str,
    api_key: str | None = None,
    variables: Mapping[str, str] | None = None,
    directory: Path = PROJECT,
    start_s: float = START_S,
) -> Iterator[RunningServer]:
    """A server whose port is open; its weights may still be loading."""
    arguments = ["serve", "--port", "0", *flags]
    arguments += [] if model is None else ["--model", str(model)]
    key = {} if api_key is None else {"PHI3V_API_KEY": api_key}
    variables = {**key, **(variables or {})}
    with spawned(log_file, *arguments, variables=variables, directory=directory) as process:

        def base_url() -> str | None:
            found = _LISTENING.search(log_file.read_text(errors="replace"))
            assert found or process.poll() is None, log_file.read_text(errors="replace")
            return found and found[1]

        url = wait_until(base_url, start_s, "the server listens")
        server = RunningServer(process, log_file, url, api_key)
        yield server
        if process.poll() is None:  # else the test ended it
            process.terminate()
            assert process.wait(30) == 0, server.log


Ready = Callable[..., AbstractContextManager["RunningServer"]]
"""What starts a server: ready_server, and what takes the same arguments."""


@contextmanager
def ready_server(
    log_file: Path,
    model: Path | str | None,
    *flags: str,
    api_key: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """A server that takes requests."""
    with listening_server(log_file, model, *flags, api_key=api_key, variables=variables) as server:
        wait_until_ready(server)
        yield server


def wait_until_ready(server: RunningServer) -> None:
    def is_ready() -> bool:
        assert server.process.poll() is None, server.log
        return server.get("/health/ready").status_code == 200

    wait_until(is_ready, START_S, "the server is ready")
    server.remember_golden()
