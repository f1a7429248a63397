"""Relative paths, which begin where `phi3v batch` runs: a worker has a directory of its own."""

import pickle
from contextlib import closing
from pathlib import Path

import pytest

from server.batch.lines import Place
from server.batch.results import error_of
from server.batch.whole_batch import server_flags
from server.client.errors import ClientError

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("ray")

from server.ray.batch.parts import Parts  # noqa: E402
from server.ray.batch.source import Source  # noqa: E402
from server.ray.batch.worker import WorkerOptions  # noqa: E402


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
        WorkerOptions(Source("."), parts, [], {}, blocks_at_once=2, concurrency=1, timeout_s=1.0)
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


def test_an_edited_part_without_a_last_line_break_is_gone_on_with(here: Path) -> None:
    """Its last answer is kept as a line, to which the block's other answers are added."""
    parts = Parts("out")
    parts.open(restart=False).close()
    answer = error_of("a", "invalid_line", "", Place(1)).to_line()
    (here / "out/part-1.jsonl").write_bytes(answer.removesuffix(b"\n"))
    assert parts.answers("1") == {"a": answer}


@pytest.mark.parametrize("name", ["out[1]", "out*", "out?"])
@pytest.mark.parametrize("store", ["", "memory://"])
def test_the_outputs_own_name_is_no_pattern(store: str, name: str, here: Path) -> None:
    """Nothing that matched it was there: what was answered was asked again, `--restart` left it."""
    (here / "out1").mkdir()
    (here / "out1/part-1.jsonl").write_text("another's")
    parts = Parts(store + name)
    parts.open(restart=False).close()
    parts.write_answers("1", [error_of("a", "invalid_line", "", Place(1)).to_line()])
    parts.write_failures("1", [error_of("b", "invalid_line", "", Place(2))])
    files = fsspec.filesystem(store.partition(":")[0] or "file")
    folder = f"/{name}" if store else f"{here}/{name}"
    with closing(parts.open(restart=False)) as answered:
        assert "a" in answered
    assert files.ls(folder, detail=False) == [f"{folder}/part-1.jsonl"]
    with closing(parts.open(restart=True)) as answered:
        assert "a" not in answered
    assert files.ls(folder) == []
    assert (here / "out1/part-1.jsonl").exists()


@pytest.mark.parametrize("source", ["in.jsonl", "./in.jsonl", ".", "*.jsonl", "file://in.jsonl"])
def test_a_worker_is_told_absolute_names_of_files(source: str, here: Path) -> None:
    (here / "in.jsonl").write_text("")
    assert Source(source).find("out") == [f"{here}/in.jsonl"]


def test_a_workers_server_gets_absolute_paths_and_a_hub_id_as_it_is(here: Path) -> None:
    (here / "weights").mkdir()
    settings = Path("phi3v.toml")
    assert server_flags("weights", settings) == [
        *("--model", f"{here}/weights"),
        *("--config", f"{here}/phi3v.toml"),
    ]
    assert server_flags("microsoft/phi-3", None) == ["--model", "microsoft/phi-3"]
    assert server_flags(None, None) == []
