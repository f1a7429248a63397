"""The sizing table of docs/scale.md: current, of the genuine model, no better than physics."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmark.sizing import CARDS, MODEL, NUM_PARAMETERS, PAGE, limits, with_current_table
from model_config import from_checkpoint

_GENUINE = Path(__file__).resolve().parents[3] / "shared" / "phi-3-vision-128k-instruct"


def test_the_sizing_table_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "<!-- sizing:" in text
    assert with_current_table(text) == text, "run python -m benchmark.sizing"


@pytest.mark.skipif(not _GENUINE.is_dir(), reason="needs ../shared")
def test_it_is_about_the_genuine_model() -> None:
    genuine = from_checkpoint(_GENUINE)
    rope = dataclasses.replace(
        MODEL.text.rope_scaling,
        short_factor=genuine.text.rope_scaling.short_factor,
        long_factor=genuine.text.rope_scaling.long_factor,
        attention_factor=genuine.text.rope_scaling.attention_factor,
    )
    assert dataclasses.replace(MODEL.text, rope_scaling=rope) == genuine.text
    vision = dataclasses.replace(
        MODEL.vision,
        image_mean=genuine.vision.image_mean,
        image_std=genuine.vision.image_std,
    )
    assert vision == genuine.vision
    index = json.loads((_GENUINE / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * NUM_PARAMETERS


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_no_card_beats_its_memory(card) -> None:
    """A token reads 7.44 GB of weights at least, and a chat of 4,096 tokens 1.6 GB more."""
    found, bandwidth = limits(card), card.bandwidth * 1e9
    assert found.alone == pytest.approx(bandwidth / 7.44e9, rel=0.01)
    assert found.alone < found.full < bandwidth / (4096 * 393_216)
    assert found.plan.need <= 0.9 * card.mib * 2**20
    assert found.plan.num_tokens * 393_216 < found.plan.cache
    assert 1.8 < found.float8_plan.num_tokens / found.plan.num_tokens < 2
