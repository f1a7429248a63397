"""A server that a batch starts for itself, on a loopback port that nobody else knows the key to."""

import json
import re
import secrets
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from scoring.child_process import start_python

from ..client.endpoint import Endpoint
from ..client.errors import NoServerError
from ..client.readiness import wait_until_ready

_LISTENING = re.compile(r"listening on (https?://127\.0\.0\.1:\d+)")
_LISTENS = ("--host", "127.0.0.1", "--port", "0")
_LOGS = ("--log-format", "json", "--log-level", "info")
# A batch has the server for itself and sends no more than it takes: its last answers are there when
# it is stopped.
_STOP_S = 30.0
# A certificate is for another name than loopback's.
_NOT_PASSED_ON = ("PHI3V_TLS_CERT", "PHI3V_TLS_KEY")


@contextmanager
def own_server(
    flags: list[str], environ: Mapping[str, str], say: Callable[[str], None]
) -> Iterator[Endpoint]:
    """Start `phi3v serve` with these flags and variables, give its address once it is ready, and
    stop it. say: gets how far it is. Raises NoServerError, with its last words, if it ends."""
    key = secrets.token_hex(16)
    variables = {name: value for name, value in environ.items() if name not in _NOT_PASSED_ON}
    # Ctrl-C is for the batch, which then stops it.
    process = start_python(
        *("server.batch.leashed_server", "serve", *_LISTENS, *_LOGS, *flags),
        environ={**variables, "PHI3V_API_KEY": key, "PHI3V_NO_AUTH": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    log = _Log(process)
    try:
        endpoint = Endpoint(log.wait_for_address(), key)
        wait_until_ready(endpoint, say, log.check_alive)
        yield endpoint
    except NoServerError as error:
        if process.poll() is None:
            raise
        raise NoServerError(f"the batch's own server has ended: {log.last_words()}") from error
    finally:
        _stop(process)
        log.close()


class _Log:
    """What the server writes, read to its end by a thread: a full pipe would hold it up."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._last: deque[str] = deque(maxlen=20)
        self._address: str | None = None
        self._has_address_or_ended = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for_address(self) -> str:
        """Raises NoServerError if the server ends before it has one, or speaks https."""
        self._has_address_or_ended.wait()
        if self._address is None:
            self._process.wait()
            raise NoServerError("it never listened")
        if self._address.startswith("https:"):
            raise NoServerError(
                "the batch's own server would speak https, with a certificate for another name: "
                "leave tls_cert and tls_key out of the settings file"
            )
        return self._address

    def check_alive(self) -> None:
        if self._process.poll() is not None:
            raise NoServerError("it has ended")

    def last_words(self) -> str:
        self._reader.join(5)
        return _message(self._last[-1]) if self._last else "it said nothing"

    def close(self) -> None:
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").strip()
            self._last.append(line)
            if self._address is None and (found := _LISTENING.search(line)):
                self._address = found[1]
                self._has_address_or_ended.set()
        self._has_address_or_ended.set()


def _message(line: str) -> str:
    """Of a line of the log, or of the one that a failed start ends with."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, LookupError, TypeError):
        return line.removeprefix("phi3v: ")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()  # its leash
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
