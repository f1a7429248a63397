"""The tiny checkpoint, its tokenizer and the published code's outputs: loaded once."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from model_config import ModelConfig, from_checkpoint
from scoring.models.phi3_vision import Phi3VisionForCausalLM
from scoring.prompt import load_tokenizer
from scoring.weights import load_model

from .golden import Golden


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The tiny model's sums are small: on a busy machine threads would only wait for each other,
    and seconds become minutes."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(shared: Path) -> Path:
    """A random checkpoint in the genuine layout."""
    return shared / "tiny-phi3v"


@pytest.fixture(scope="session")
def config(tiny: Path) -> ModelConfig:
    return from_checkpoint(tiny)


@pytest.fixture(scope="session")
def golden(shared: Path, config: ModelConfig) -> Golden:
    return Golden(shared / "golden", config.vision)


@pytest.fixture(scope="session")
def tokenizer(tiny: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tiny)


@pytest.fixture(scope="session")
def model(tiny: Path, config: ModelConfig) -> Phi3VisionForCausalLM:
    """The tiny model in float32 on the CPU."""
    return load_model(tiny, config, torch.device("cpu"), torch.float32, lambda done, total: None)
