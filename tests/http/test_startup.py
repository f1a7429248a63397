"""Starting: what is refused, in one line and at once, and where weights are found."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from scoring.checkpoint import find_checkpoint

from .running_server import (
    PROJECT,
    RunningServer,
    assert_well,
    listening_server,
    ready_server,
    run_command,
    spawned,
    wait_until,
)


def assert_refused(result: "subprocess.CompletedProcess[str]", *words: str, code: int = 1) -> None:
    """One line on stderr with these words in it, and nothing else."""
    assert result.returncode == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("phi3v: ")
    for word in words:
        assert word in line
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], ["host", "0.0.0.0", "api_key", "no_auth"]),
        (["--device", "tpu"], ["device", "tpu", "cuda", "cpu"]),
        (["--api-key", "hush-hush", "--no-auth"], ["api_key", "no_auth"]),
        (["--model", "neither-here-nor-there"], ["neither-here-nor-there"]),
        (["--model", "someone/some-model"], ["someone/some-model", "--revision"]),
        (["--card", "queen-of-hearts"], ["queen-of-hearts", "phi-3-vision-128k-instruct"]),
        (["--config", "no-such-file.toml"], ["no-such-file.toml"]),
        (["--data-parallel", "2", "--no-engine-process"], ["data_parallel is 2", "engine_process"]),
        (["--max-model-len", "8193"], ["max_model_len", "8193", "8192"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_bad_flag_is_refused(demo_checkpoint: Path, flags: list[str], words: list[str]) -> None:
    model = [] if "--model" in flags else ["--model", str(demo_checkpoint)]
    result = run_command("serve", "--port", "0", *model, *flags, timeout_s=20)
    assert_refused(result, *words)
    assert "hush-hush" not in result.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PHI3V_MAX_MODEL_LENGTH": "64"}, ["PHI3V_MAX_MODEL_LENGTH", "max_model_len"]),
        ({"PHI3V_HOST": "0.0.0.0"}, ["host", "0.0.0.0"]),
        ({"AZUREML_MODEL_DIR": "/nowhere/at/all"}, ["/nowhere/at/all"]),
    ],
    ids=str,
)
def test_a_bad_variable_is_refused(variables: dict[str, str], words: list[str]) -> None:
    result = run_command("serve", timeout_s=20, **variables)
    assert_refused(result, *words)
    assert "hush-hush" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--max-model-length", "64"], ["--max-model-length"]),
        (["fly"], ["fly"]),
    ],
    ids=str,
)
def test_a_command_that_cannot_be_read_is_refused(arguments: list[str], words: list[str]) -> None:
    result = run_command(*arguments, timeout_s=20)
    assert result.returncode == 2
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no weights here")
    assert_refused(
        run_command("serve", "--port", "0", "--model", str(tmp_path), timeout_s=20),
        "config.json",
        "safetensors",
    )


@pytest.fixture
def copy_of_demo(demo_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_checkpoint, tmp_path / "copy"))


def change_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("file", "field", "value", "words"),
    [
        ("config.json", "hidden_act", "gelu", ["hidden_act", "gelu", "silu"]),
        ("preprocessor_config.json", "num_crops", "many", ["num_crops", "many"]),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_config_that_is_not_implemented_is_refused_by_name_and_value(
    copy_of_demo: Path, file: str, field: str, value: Any, words: list[str]
) -> None:
    change_json(copy_of_demo / file, lambda values: values.update({field: value}))
    result = run_command("serve", "--port", "0", "--model", str(copy_of_demo), timeout_s=20)
    assert_refused(result, file, *words)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("tokenizer.json", "{}"),
        ("preprocessor_config.json", None),
    ],
)
def test_a_file_that_is_broken_or_missing_is_refused_by_name(
    copy_of_demo: Path, file: str, content: str | None
) -> None:
    (copy_of_demo / file).unlink()
    if content is not None:
        (copy_of_demo / file).write_text(content)
    result = run_command("serve", "--port", "0", "--model", str(copy_of_demo), timeout_s=20)
    assert_refused(result, file)


def truncate(checkpoint: Path) -> None:
    (shard,) = checkpoint.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1000])


def drop_tensor(checkpoint: Path) -> None:
    (shard,) = checkpoint.glob("*.safetensors")
    tensors = load_file(shard)
    del tensors["lm_head.weight"]
    save_file(tensors, shard)


def replace_header(checkpoint: Path) -> None:
    (shard,) = checkpoint.glob("*.safetensors")
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ["weights cannot be read", "model-00001-of-00001.safetensors", "bytes"]),
        (replace_header, ["weights cannot be read", "model-00001-of-00001.safetensors", "header"]),
    ],
)
def test_weights_whose_files_are_broken_are_refused_at_once(
    copy_of_demo: Path, damage: Callable[[Path], None], words: list[str]
) -> None:
    damage(copy_of_demo)
    result = run_command("serve", "--port", "0", "--model", str(copy_of_demo), timeout_s=20)
    assert_refused(result, *words)


def cut_tensor(checkpoint: Path) -> None:
    (shard,) = checkpoint.glob("*.safetensors")
    tensors = load_file(shard)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, shard)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop_tensor, ["missing", "lm_head.weight"]),
        (cut_tensor, ["misshapen", "model.norm.weight"]),
    ],
)
def test_weights_that_do_not_fit_end_the_process(
    copy_of_demo: Path, tmp_path: Path, damage: Callable[[Path], None], words: list[str]
) -> None:
    """The engine finds that, behind an open port; the last line says what it was."""
    damage(copy_of_demo)
    last = last_line_of_failed_start(tmp_path / "log", copy_of_demo)
    for word in words:
        assert word in last


def last_line_of_failed_start(log: Path, checkpoint: Path, *flags: str, **variables: str) -> str:
    arguments = ["serve", "--port", "0", "--model", str(checkpoint), *flags]
    with spawned(log, *arguments, variables=variables) as process:
        assert process.wait(60) == 1
    assert "Traceback" not in log.read_text()
    last = log.read_text().splitlines()[-1]
    assert last.startswith("phi3v: ")
    return last


def test_a_context_that_the_memory_does_not_hold_ends_the_process(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    flags = ["--kv-cache-gib", "0.001", "--max-model-len", "8000"]
    last = last_line_of_failed_start(tmp_path / "log", demo_checkpoint, *flags)
    assert "cache" in last
    assert "max_model_len is 8000" in last


def test_a_cache_larger_than_the_memory_ends_the_process_before_it_is_taken(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    """Not the kernel's killer, minutes later."""
    flags = ["--kv-cache-gib", "100000", "--max-num-seqs", "1024", "--max-model-len", "8192"]
    flags += ["--max-num-batched-tokens", "1024"]
    last = last_line_of_failed_start(tmp_path / "log", demo_checkpoint, *flags)
    assert "kv_cache is too large" in last


def test_the_start_prints_where_the_memory_goes(demo: RunningServer) -> None:
    messages = [json.loads(line)["message"] for line in demo.log.splitlines() if "memory " in line]
    lines = [message.partition("memory ")[2] for message in messages]
    weights, cache, work, total = lines[:4]
    assert weights.endswith("GiB for weights")
    assert "GiB for keys and values: " in cache
    assert "GiB for work: " in work
    assert re.fullmatch(r"= +\d+\.\d\d GiB of \d+\.\d\d (on this machine|under .* limit)", total)


def test_a_port_that_is_taken_is_refused(demo_checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run_command("serve", "--port", port, "--model", str(demo_checkpoint))
    assert_refused(result, port, "in use")


def test_an_address_that_is_not_ours_is_refused(demo_checkpoint: Path) -> None:
    flags = ["--host", "192.0.2.1", "--no-auth", "--model", str(demo_checkpoint)]
    assert_refused(run_command("serve", *flags), "192.0.2.1", "cannot be listened on")


def huge_checkpoint(demo: Path, directory: Path) -> Path:
    """Two TiB of weights, by their header; the file is a hole."""
    shutil.copytree(demo, directory)
    for file in [*directory.glob("*.safetensors"), *directory.glob("*.index.json")]:
        file.unlink()
    size = 1 << 41
    entry = {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]}
    header = json.dumps({"lm_head.weight": entry}).encode()
    file = directory / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    try:
        os.truncate(file, 8 + len(header) + size)
    except OSError as error:
        pytest.skip(f"no file with such a hole can be made here: {error}")
    return directory


def test_weights_larger_than_the_memory_are_refused_before_they_are_read(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    model = huge_checkpoint(demo_checkpoint, tmp_path / "huge")
    last = last_line_of_failed_start(tmp_path / "log", model, "--device", "cpu")
    assert "the weights take 4096.00 GiB in float32" in last
    assert "in bfloat16 they take 2048.00" in last


def test_a_cache_that_cannot_be_written_to_stops_nobody(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    """A container's file system may be read-only: kernels are built in a temporary place."""
    variables = {"XDG_CACHE_HOME": "/proc/none", "HOME": "/proc/none"}
    with ready_server(tmp_path / "log", demo_checkpoint, variables=variables) as server:
        assert_well(server)


@pytest.fixture
def without_demo(tmp_path: Path) -> Path:
    """The packages as an image has them: without the demo's weights."""
    without_weights = shutil.ignore_patterns("*.safetensors")
    for name in ("server", "scoring", "model_config"):
        shutil.copytree(PROJECT / name, tmp_path / "packages" / name, ignore=without_weights)
    return tmp_path / "packages"


def test_a_demo_that_cannot_be_written_is_told_in_a_line(
    tmp_path: Path, without_demo: Path
) -> None:
    """A file of its name is in the way."""
    cache = tmp_path / "phi3v-server"
    cache.mkdir()
    (cache / "demo-random-3").write_text("not a directory")
    variables = {"XDG_CACHE_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hub")}
    result = run_command("serve", "--port", "0", directory=without_demo, **variables)
    assert result.returncode == 1
    assert "the demo model cannot be written to" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def nested(checkpoint: Path, directory: Path, levels: int) -> Path:
    """A mount with the checkpoint so many levels below, beside other things."""
    (directory / "a" / "MLmodel").mkdir(parents=True)
    (directory / "readme.md").write_text("not weights")
    target = directory.joinpath(*(["model"] * levels))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(checkpoint, target_is_directory=True)
    return directory


@pytest.mark.parametrize("levels", range(5))
def test_a_checkpoint_may_lie_up_to_four_levels_deep(
    demo_checkpoint: Path, tmp_path: Path, levels: int
) -> None:
    directory = nested(demo_checkpoint, tmp_path, levels) if levels else demo_checkpoint
    assert find_checkpoint(directory).resolve() == demo_checkpoint.resolve()


@pytest.mark.parametrize("levels", [1, 4])
def test_weights_are_found_below_azuremls_mount(
    demo_checkpoint: Path, tmp_path: Path, levels: int
) -> None:
    mount = nested(demo_checkpoint, tmp_path / "mount", levels)
    variables = {"AZUREML_MODEL_DIR": str(mount)}
    with listening_server(tmp_path / "log", None, variables=variables) as server:
        assert server.get("/info").json()["model_name"] == "phi3v-demo"


def test_weights_five_levels_below_are_not_found(demo_checkpoint: Path, tmp_path: Path) -> None:
    mount = nested(demo_checkpoint, tmp_path / "mount", 5)
    result = run_command("serve", timeout_s=20, AZUREML_MODEL_DIR=str(mount))
    assert_refused(result, "4 levels", str(mount))


def test_a_model_that_is_named_comes_before_azuremls_mount(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    with listening_server(
        tmp_path / "log", demo_checkpoint, variables={"AZUREML_MODEL_DIR": "/nowhere"}
    ) as server:
        assert server.get("/health/live").status_code == 200


def test_without_any_weights_the_demo_is_served_and_says_so(tmp_path: Path) -> None:
    variables = {"HF_HOME": str(tmp_path / "hub")}
    with listening_server(tmp_path / "log", None, variables=variables) as server:
        assert server.get("/info").json()["notice"].startswith("DEMO: ")
        assert "serving the DEMO model, a small one for a first look" in server.log


def test_without_the_demos_weights_random_ones_are_made_once(
    tmp_path: Path, without_demo: Path
) -> None:
    """In the user's cache, for the next start."""
    variables = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub")}
    demo = tmp_path / "cache" / "phi3v-server" / "demo-random-3"
    written = []
    for number in range(2):
        log = tmp_path / f"log{number}"
        with listening_server(log, None, variables=variables, directory=without_demo) as server:
            assert "its words are noise" in server.log
        written.append({file: file.stat().st_mtime_ns for file in demo.iterdir()})
    assert written[0] == written[1] != {}


def test_a_card_may_be_named(demo_checkpoint: Path, tmp_path: Path) -> None:
    with listening_server(
        tmp_path / "log", demo_checkpoint, "--card", "phi-3.5-vision-instruct"
    ) as server:
        assert server.get("/info").json()["model_name"] == "Phi-3.5-vision-instruct"


def test_beyond_loopback_a_key_or_no_auth_opens_the_door(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    """Only that it starts; nothing is sent to the outside address."""
    for flags in (["--api-key", "k"], ["--no-auth"]):
        log = tmp_path / "log"
        arguments = ["serve", "--port", "0", "--host", "0.0.0.0", "--model", str(demo_checkpoint)]
        with spawned(log, *arguments, *flags) as process:
            wait_until(lambda log=log: "listening on" in log.read_text(), 20, "it listens")
            assert process.poll() is None
