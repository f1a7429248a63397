"""safetensors → model: strict, and silent about nothing."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_config import from_checkpoint
from scoring.errors import CheckpointError
from scoring.models.phi3_vision import Phi3VisionForCausalLM
from scoring.weights import build_empty, load_model

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def load(directory: Path, config, progress=lambda done, total: None) -> Phi3VisionForCausalLM:
    return load_model(directory, config, torch.device("cpu"), torch.float32, progress)


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint's weights, to be broken."""
    for name in (INDEX, FIRST, SECOND):
        shutil.copyfile(tiny / name, tmp_path / name)
    return tmp_path


def rewrite(path: Path, change) -> None:
    """Apply a change to the dict of a shard's tensors."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def some_name(checkpoint: Path, file: str, ending: str) -> str:
    """A tensor of this shard whose name ends so."""
    weight_map = json.loads((checkpoint / INDEX).read_text())["weight_map"]
    return next(name for name, at in weight_map.items() if at == file and name.endswith(ending))


def test_the_full_model_has_exactly_the_published_tensors(shared):
    directory = shared / "phi-3-vision-128k-instruct"
    published = json.loads((directory / INDEX).read_text(encoding="utf-8"))

    parameters = dict(build_empty(from_checkpoint(directory)).named_parameters())

    assert parameters.keys() == published["weight_map"].keys()
    assert {parameter.device.type for parameter in parameters.values()} == {"meta"}
    num_bytes = 2 * sum(math.prod(parameter.shape) for parameter in parameters.values())
    assert num_bytes == published["metadata"]["total_size"] == 8_293_242_880


def test_every_parameter_gets_the_values_on_disk(checkpoint, model):
    stored = load_file(checkpoint / FIRST) | load_file(checkpoint / SECOND)

    assert stored.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert parameter.dtype is torch.float32
        assert not parameter.requires_grad
        assert torch.equal(parameter, stored[name].float()), name


def test_weights_in_a_single_file_load(checkpoint, config, model):
    save_file(
        load_file(checkpoint / FIRST) | load_file(checkpoint / SECOND),
        checkpoint / "model.safetensors",
    )
    for name in (INDEX, FIRST, SECOND):
        (checkpoint / name).unlink()

    loaded = load(checkpoint, config)

    for (name, ours), theirs in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_progress_only_grows_and_ends_at_the_total(checkpoint, config):
    reports: list[tuple[int, int]] = []

    load(checkpoint, config, lambda done, total: reports.append((done, total)))

    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert len(reports) > 10
    total_size = json.loads((checkpoint / INDEX).read_text())["metadata"]["total_size"]
    assert {report[1] for report in reports} == {total_size}
    assert done[-1] == total_size


def test_a_missing_tensor_is_named(checkpoint, config):
    name = some_name(checkpoint, SECOND, "qkv_proj.weight")
    rewrite(checkpoint / SECOND, lambda tensors: tensors.pop(name))

    with pytest.raises(CheckpointError, match=f"1 missing: {name}"):
        load(checkpoint, config)


def test_a_left_over_tensor_is_named(checkpoint, config):
    name = "model.layers.0.self_attn.q_proj.bias"
    rewrite(checkpoint / FIRST, lambda tensors: tensors.update({name: torch.zeros(2)}))

    with pytest.raises(CheckpointError, match=f"1 left over: {name}"):
        load(checkpoint, config)


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(checkpoint, config):
    name = "model.norm.weight"
    file = json.loads((checkpoint / INDEX).read_text())["weight_map"][name]
    rewrite(checkpoint / file, lambda tensors: tensors.update({name: torch.zeros(191)}))

    with pytest.raises(CheckpointError) as refusal:
        load(checkpoint, config)

    assert f"1 misshapen: {name} is [191], not [192]" in str(refusal.value)


def test_all_problems_are_told_at_once(checkpoint, config):
    missing = some_name(checkpoint, FIRST, ".weight")
    extra = {f"extra.{number}": torch.zeros(1) for number in range(9)}
    rewrite(checkpoint / FIRST, lambda tensors: tensors.pop(missing))
    rewrite(checkpoint / SECOND, lambda tensors: tensors.update(extra))

    with pytest.raises(CheckpointError) as refusal:
        load(checkpoint, config)

    assert f"1 missing: {missing}" in str(refusal.value)
    assert "9 left over: extra.0, extra.1, " in str(refusal.value)
    assert "…" in str(refusal.value)


def test_a_truncated_shard_is_refused(checkpoint, config):
    content = (checkpoint / SECOND).read_bytes()
    (checkpoint / SECOND).write_bytes(content[: len(content) // 2])

    with pytest.raises(CheckpointError, match="cannot be read"):
        load(checkpoint, config)


def test_a_shard_that_is_not_safetensors_is_refused(checkpoint, config):
    (checkpoint / SECOND).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")

    with pytest.raises(CheckpointError, match="cannot be read"):
        load(checkpoint, config)


def test_a_missing_shard_is_named(checkpoint, config):
    (checkpoint / SECOND).unlink()

    with pytest.raises(CheckpointError, match=SECOND):
        load(checkpoint, config)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": null}'])
def test_an_index_that_is_no_index_is_refused(checkpoint, config, content):
    (checkpoint / INDEX).write_text(content)

    with pytest.raises(CheckpointError):
        load(checkpoint, config)


def test_a_directory_without_weights_is_refused(tmp_path, config):
    with pytest.raises(CheckpointError, match=rf"neither {INDEX} nor model\.safetensors"):
        load(tmp_path, config)
