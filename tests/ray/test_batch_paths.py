"""Relative paths, which begin where `phi3v batch` runs: a worker has a directory of its own."""

import pickle
from pathlib import Path

import pytest

from server.batch.whole_batch import server_flags
from server.client.errors import ClientError

pytest.importorskip("ray")

from server.ray.batch.parts import Parts
from server.ray.batch.source import find_files
from server.ray.batch.worker import WorkerOptions


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which the command runs."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A worker's."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("output", ["out", "./out/", "../here/out", "file://out"])
def test_a_worker_elsewhere_writes_into_the_commands_output(
    output: str, here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(output)
    parts.open(restart=False).close()
    sent = pickle.dumps(
        WorkerOptions(parts, [], {}, blocks_at_once=2, concurrency=1, timeout_s=1.0)
    )
    monkeypatch.chdir(elsewhere)
    pickle.loads(sent).output.write_answers("1", [b"{}\n"])
    assert [path.name for path in (here / "out").iterdir()] == ["part-1.jsonl"]
    assert not list(elsewhere.iterdir())


def test_what_a_worker_cannot_write_is_told_by_the_name_that_was_given(here: Path) -> None:
    (here / "out").write_text("no directory")
    sent = pickle.loads(pickle.dumps(Parts("out")))
    with pytest.raises(ClientError, match=r"^out cannot be written: "):
        sent.write_answers("1", [b"{}\n"])


@pytest.mark.parametrize("source", ["in.jsonl", "./in.jsonl", ".", "*.jsonl", "file://in.jsonl"])
def test_a_worker_is_told_absolute_names_of_files(source: str, here: Path) -> None:
    (here / "in.jsonl").write_text("")
    assert find_files(source, "out") == [f"file://{here}/in.jsonl"]


def test_a_workers_server_gets_absolute_paths_and_a_hub_id_as_it_is(here: Path) -> None:
    (here / "weights").mkdir()
    settings = Path("phi3v.toml")
    assert server_flags("weights", settings) == [
        *("--model", f"{here}/weights"),
        *("--config", f"{here}/phi3v.toml"),
    ]
    assert server_flags("microsoft/phi-3", None) == ["--model", "microsoft/phi-3"]
    assert server_flags(None, None) == []
