"""A training run that was interrupted goes on as if it had not been."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from scoring.demo_model import DEMO
from tools.train_demo import dense, train
from tools.train_demo.train import NAMING_STEPS, Trainer

from .conftest import in_matplotlibs_faces

_ROWS = 2


@pytest.fixture(autouse=True)
def _one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without torch.compile, which only makes a step faster, and the extra's typefaces."""
    for name in ("TRAINING", "EVALUATION"):
        monkeypatch.setattr(train, name, in_matplotlibs_faces(getattr(train, name)))
    monkeypatch.setattr(dense, "compile_layers", lambda model: None)
    (tmp_path / "demo").mkdir()
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        shutil.copy(DEMO / name, tmp_path / "demo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def steps(trainer: Trainer, numbers: range) -> list[float]:
    """Their losses."""
    return [
        trainer.update(random.Random(f"test {step}"), step, numbers.stop + 100, _ROWS)
        for step in numbers
    ]


@pytest.mark.parametrize("first", [0, NAMING_STEPS], ids=["naming", "answering"])
def test_an_interrupted_run_is_the_whole_one(tmp_path: Path, first: int) -> None:
    whole = Trainer(tmp_path)
    assert whole.step == 0
    steps(whole, range(first, first + 1))
    whole.save(first + 1)
    rest = range(first + 1, first + 3)
    expected = steps(whole, rest)

    resumed = Trainer(tmp_path)
    assert resumed.step == first + 1
    assert steps(resumed, rest) == expected


def test_marks_leave_the_run_as_it_was(tmp_path: Path) -> None:
    trainer, other = Trainer(tmp_path), Trainer(tmp_path)
    assert "names" in trainer.marks(1)
    numbers = range(2)
    assert steps(trainer, numbers) == steps(other, numbers)


def test_a_state_that_was_cut_short_is_not_taken(tmp_path: Path) -> None:
    Trainer(tmp_path).save(7)
    (tmp_path / "state.part").write_bytes(b"half of the next one")
    assert Trainer(tmp_path).step == 7
    assert torch.load(tmp_path / "state.pt")["step"] == 7
