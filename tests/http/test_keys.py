"""Several keys, and keys that change while the server runs."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from server.keys import KeyRing, key_ring
from server.settings import Settings, SettingsError

from .error_bodies import assert_error
from .event_streams import opened
from .parrot import Parrot, parrot_server
from .running_server import Endpoint, assert_well, ready_server, run_command, wait_until


def status(server: Endpoint, key: str) -> int:
    with httpx.Client(base_url=server.base_url, verify=False, timeout=20) as client:
        return client.get("/info", headers={"api-key": key}).status_code


def write(file: Path, *lines: str) -> Path:
    """Replace the file, as rotating tools do."""
    new = file.with_suffix(".new")
    new.write_text("\n".join(lines))
    new.replace(file)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "keys", "# for the first team", "first", "", "  second  ")


def test_each_of_several_keys_lets_in(demo_checkpoint: Path, file: Path) -> None:
    with parrot_server(
        demo_checkpoint, Parrot(demo_checkpoint), api_key="third", api_key_file=str(file)
    ) as server:
        assert [status(server, key) for key in ("first", "second", "third")] == [200] * 3
        for key in ("", "fourth", "# for the first team", "#", "firs", "first,second"):
            assert status(server, key) == 401, key
        assert_well(server)


def test_keys_in_one_variable_are_separated_by_commas() -> None:
    ring = key_ring(Settings(api_key="first, second"))  # type: ignore[arg-type]
    assert ring is not None
    assert ring.find("first")
    assert ring.find("second")
    for wrong in ("first, second", "first,second", " second", ""):
        assert ring.find(wrong) is None
    with pytest.raises(SettingsError, match="empty"):
        key_ring(Settings(api_key="first,,second"))  # type: ignore[arg-type]


def test_callers_are_told_apart_by_their_keys() -> None:
    ring = KeyRing(("first", "second"))
    assert ring.find("first") == ring.find("first") != ring.find("second")


def test_the_ring_keeps_no_key() -> None:
    ring = KeyRing(("a-key-in-plain-text",))
    assert "a-key-in-plain-text" not in repr(vars(ring))


def test_a_key_taken_out_of_the_file_is_refused_from_then_on(
    demo_checkpoint: Path, file: Path
) -> None:
    with parrot_server(
        demo_checkpoint, Parrot(demo_checkpoint), api_key="mine", api_key_file=str(file)
    ) as server:
        assert status(server, "first") == 200
        write(file, "second", "third")
        assert [status(server, key) for key in ("first", "second", "third")] == [401, 200, 200]
        assert_well(server)


def test_an_answer_that_has_begun_outlives_its_key(demo_checkpoint: Path, file: Path) -> None:
    with parrot_server(
        demo_checkpoint, Parrot(demo_checkpoint), api_key="mine", api_key_file=str(file)
    ) as server:
        old = Endpoint(server.base_url, "first")
        server.parrot.step_s = 0.02
        with opened(old, "Long enough to change a key meanwhile") as stream:
            stream.take(1)
            write(file, "second")
            assert_error(old.ask("hi"), 401)
            stream.take_rest()
            assert stream.text == "Long enough to change a key meanwhile"
        assert_well(server)


@pytest.mark.parametrize("lines", [[], ["# nothing"], None], ids=["empty", "comments", "gone"])
def test_a_file_that_becomes_useless_changes_nothing(
    file: Path, lines: list[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing(file=file)
    if lines is None:
        file.unlink()
    else:
        write(file, *lines)
    assert ring.find("first")
    assert ring.find("first")
    assert caplog.text.count("the keys read before stay") == 1
    write(file, "later")
    assert ring.find("first") is None
    assert ring.find("later")


def test_a_link_turned_to_another_file_is_a_change(tmp_path: Path) -> None:
    """How Kubernetes changes a mounted secret."""
    for number in ("1", "2"):
        os.utime(write(tmp_path / f"version-{number}", f"key-{number}"), (1e9, 1e9))
    link = tmp_path / "keys"
    link.symlink_to("version-1")
    ring = KeyRing(file=link)
    (tmp_path / "new").symlink_to("version-2")
    (tmp_path / "new").replace(link)
    assert ring.find("key-2")
    assert ring.find("key-1") is None


def test_sighup_reads_the_file_again(demo_checkpoint: Path, file: Path, logs: Path) -> None:
    with ready_server(
        logs / "sighup.log", demo_checkpoint, "--api-key-file", str(file), api_key="mine"
    ) as server:
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "read 2 keys" in server.log, 10, "it says that it has read them")
        write(file, "first", "second", "third")
        assert status(server, "third") == 200
        assert "read 3 keys" in server.log
        assert "third" not in server.log
        assert_well(server)


@pytest.mark.parametrize("content", [None, b"", b"# only this", b"\xff\xfe"])
def test_a_useless_file_is_refused_at_the_start(
    tmp_path: Path, demo_checkpoint: Path, content: bytes | None
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    done = run_command("serve", "--model", str(demo_checkpoint), "--api-key-file", str(path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(path) in done.stderr


def test_a_file_of_keys_is_enough_to_listen_anywhere(file: Path) -> None:
    assert Settings(host="0.0.0.0", api_key_file=str(file)).asks_who_calls
    with pytest.raises(ValueError, match="no_auth excludes"):
        Settings(api_key_file=str(file), no_auth=True)
