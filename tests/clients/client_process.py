"""A client that runs elsewhere, under Node or in a virtual environment of its own: a script that
answers each line of JSON with a line of JSON."""

import json
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .conftest import KEY

TIMEOUT_S = 60.0


class ThrownError(Exception):
    """What a call threw: `fields` has its name, message and, where it had them, code, param and
    status."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(json.dumps(fields))
        self.fields = fields


class ClientProcess:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, call: str, endpoint: str, *, key: str = KEY, **given: Any) -> Any:
        """What the script's call returns. Raises ThrownError with what it throws."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"call": call, "endpoint": endpoint, "key": key, **given})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
        assert ready, f"no answer to {call} in {TIMEOUT_S:g} s"
        answer = self._process.stdout.readline()
        assert answer, f"the client died of {call}"
        told = json.loads(answer)
        if "thrown" in told:
            raise ThrownError(told["thrown"])
        return told["returned"]


@contextmanager
def client_process(*command: str | Path) -> Iterator[ClientProcess]:
    with subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield ClientProcess(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == 0
        finally:
            process.kill()
