"""`phi3v chat` without a terminal: the answer alone on stdout, and an exit code that tells."""

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from ..http.parrot import ParrotServer
from ..http.running_server import (
    PROJECT,
    RunningServer,
    command,
    environment,
    ready_server,
)
from .conftest import KEY


def chat(
    *arguments: str, stdin: str | None = None, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """`phi3v chat …` in a pipe. In stdin "\\udce9" is the byte E9, as in arguments."""
    done = subprocess.run(
        command("chat", *arguments),
        cwd=PROJECT,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def assert_failed(done: "subprocess.CompletedProcess[str]", reason: str) -> None:
    """One line, on stderr."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"phi3v: [^\n]*{reason}[^\n]*\n", done.stderr), done.stderr


def test_what_is_piped_in_is_answered(parrot: ParrotServer) -> None:
    done = chat("--url", parrot.base_url, "--key", KEY, stdin="hello\nworld\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\nworld\n", "")


def test_a_closed_stdin_is_an_empty_one(parrot: ParrotServer) -> None:
    words = command("chat", "--url", parrot.base_url, "--key", KEY)
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(words)} <&-"],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert_failed(done, "")


def test_an_argument_is_asked_about_a_picture(parrot: ParrotServer, png: Path) -> None:
    """stdin is left alone then: a script's may stay open for ever."""
    arguments = ["--url", f"{parrot.base_url}/v1/", "--image", str(png), "What is it?"]
    done = chat(*arguments, PHI3V_API_KEY=f"{KEY},another")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("What is it?\n")  # behind what the parrot makes of a picture


def test_control_characters_stay_out_of_what_a_pager_may_show(parrot: ParrotServer) -> None:
    done = chat("--url", parrot.base_url, "--key", KEY, "a\x1b[2Jb\rc")
    assert (done.returncode, done.stdout) == (0, "a␛[2Jb␍c\n")


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_bytes_that_are_no_text_are_replaced(parrot: ParrotServer, locale: str) -> None:
    """One in what `git diff` shows was a stack trace."""
    at = ["--url", parrot.base_url, "--key", KEY]
    text, shown = "caf\udce9 au lait", "caf\ufffd au lait\n"
    done = chat(*at, stdin=text, LC_ALL=locale)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")
    done = chat(*at, "--system", text, text, LC_ALL=locale)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate that the server's own is signed with, which lies beside it."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(directory / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    return directory / "ca.pem"


@pytest.fixture(scope="module")
def secure(demo_checkpoint: Path, logs: Path, authority: Path) -> Iterator[RunningServer]:
    """The demo model behind https, for those who have the key."""
    files = [str(authority.with_name(name)) for name in ("cert.pem", "key.pem")]
    flags = ["--tls-cert", files[0], "--tls-key", files[1]]
    log = logs / "chat.log"
    with ready_server(log, demo_checkpoint, *flags, api_key=KEY) as server:
        yield server


def test_https_with_a_certificate_of_its_own(secure: RunningServer, authority: Path) -> None:
    at = ["--url", secure.base_url, "--key", KEY, "--max-tokens", "3"]
    done = chat(*at, "--ca-file", str(authority), "hi")
    assert done.returncode == 0, done.stderr
    assert_failed(chat(*at, "hi"), "certificate verify failed")
    assert_failed(chat(*at, "--ca-file", str(authority.with_name("no")), "hi"), "cannot be used")


def test_sampling_and_a_schema_reach_the_model(
    secure: RunningServer, authority: Path, tmp_path: Path
) -> None:
    at = ["--url", secure.base_url, "--key", KEY, "--ca-file", str(authority)]
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"a": {"enum": [1, 2]}},
                                  "required": ["a"], "additionalProperties": False}))  # fmt: skip
    done = chat(*at, "--json-schema", str(schema), "Which?")
    assert done.returncode == 0
    assert json.loads(done.stdout)["a"] in (1, 2)

    drawn = [
        chat(*at, "--temperature", "1.5", "--max-tokens", "20", "--seed", seed, "Tell").stdout
        for seed in ("1", "1", "2")
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_failures_are_one_line_and_exit_code_1(parrot: ParrotServer, tmp_path: Path) -> None:
    at = ["--url", parrot.base_url]
    assert_failed(chat(*at, "hi"), "401 the key is missing or wrong")
    known = [*at, "--key", KEY]
    assert_failed(chat(*known, stdin=""), "the prompt is empty")
    assert_failed(chat(*known, "--image", str(tmp_path / "no"), "hi"), "No such file")
    assert_failed(chat(*known, "--image", "~nobody-here/a.png", "hi"), "No such file")
    assert_failed(chat(*known, "--top-p", "7", "hi"), "422 top_p: ")
    assert_failed(chat(*known, "--json-schema", str(tmp_path / "no"), "hi"), "cannot be read")
    assert_failed(chat("--url", "localhost:5001", "hi"), "must begin with http")
    assert_failed(chat(*at, "--key", "clé", "hi"), "the key must be printable ASCII")


def test_where_no_server_is_it_says_so(parrot: ParrotServer) -> None:
    nowhere = "http://127.0.0.1:1"
    assert_failed(chat("--url", nowhere, "hi"), f"no server answers at {nowhere}: ")


def test_at_the_usual_address_it_says_how_to_start_a_server() -> None:
    with socket.socket() as connection:
        if connection.connect_ex(("127.0.0.1", 5001)) == 0:
            pytest.skip("somebody listens on port 5001 of this machine")
    assert_failed(chat("hi"), "start one with `make serve` or `phi3v serve`")


def test_the_command_line_does_not_wait_for_what_a_chat_imports() -> None:
    program = "import sys, server.cli; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=False).returncode == 0
