"""The checkpoints that servers are started on; built or found once per session."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from model_config import load_card
from scoring.prompt import load_tokenizer
from scoring.random_checkpoint import write_demo_checkpoint


@pytest.fixture(scope="session")
def demo_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random demo model, robbed of the tokens that end an answer: its greedy answers are as
    long as a test asks for. The fixture is used from two folders, the files are written once."""
    directory = tmp_path_factory.getbasetemp() / "demo-checkpoint"
    if not directory.exists():
        write_demo_checkpoint(directory)
        _never_stop(directory)
    return directory


def _never_stop(directory: Path) -> None:
    (weights,) = directory.glob("*.safetensors")
    tensors = load_file(weights)
    vocabulary = load_tokenizer(directory).get_vocab()
    stops = [vocabulary[token] for token in load_card("demo").stop_tokens]
    # Of all tokens, one has a logit above zero.
    tensors["lm_head.weight"][stops] = 0.0
    save_file(tensors, weights, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def tiny_checkpoint(shared: Path) -> Path:
    """A tiny random model with the genuine tokenizer."""
    return shared / "tiny-phi3v"
