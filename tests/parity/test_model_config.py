"""What a model is, read from the published files; and what is refused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_config import (
    UnknownCardError,
    UnsupportedConfigError,
    card_for,
    card_ids,
    card_of_hub_id,
    from_checkpoint,
    load_card,
)
from scoring.image_processor import hd_size, num_image_tokens

PHI_3, PHI_3_5 = "phi-3-vision-128k-instruct", "phi-3.5-vision-instruct"
MISSING = object()


def edited(source: Path, target: Path, file: str, field: str, value: Any) -> Path:
    """A copy of a model's small files with one field changed, or taken out if MISSING.

    field: its names from the outermost in, joined by dots. value may be text that is not JSON's.
    """
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(source / name, target / name)
    content = json.loads((target / file).read_text(encoding="utf-8"))
    *outer, last = field.split(".")
    inner = content
    for name in outer:
        inner = inner.setdefault(name, {})
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    (target / file).write_text(json.dumps(content), encoding="utf-8")
    return target


def test_the_published_model_is_read_as_published(shared):
    config = from_checkpoint(shared / PHI_3)

    assert config.name_or_path == "Phi-3-vision-128k-instruct"
    text = config.text
    assert (text.vocab_size, text.hidden_size, text.intermediate_size) == (32064, 3072, 8192)
    assert (text.num_layers, text.num_heads, text.head_dim) == (32, 32, 96)
    assert (text.rms_norm_eps, text.rope_theta) == (1e-5, 10000.0)
    assert text.max_position_embeddings == 131072
    vision = config.vision
    assert (vision.hidden_size, vision.intermediate_size) == (1024, 4096)
    assert (vision.num_layers, vision.num_heads) == (24, 16)
    assert (vision.crop_size, vision.patch_size, vision.layer_norm_eps) == (336, 14, 1e-5)
    assert (vision.num_crops, vision.tokens_per_side, vision.tokens_per_crop) == (16, 12, 144)
    assert vision.image_mean == (0.48145466, 0.4578275, 0.40821073)
    assert vision.image_std == (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("name", [PHI_3, PHI_3_5, "tiny-phi3v"])
def test_the_rope_regimes_are_read_as_published(shared, name):
    rope = from_checkpoint(shared / name).text.rope_scaling
    published = json.loads((shared / name / "config.json").read_text(encoding="utf-8"))

    assert list(rope.short_factor) == published["rope_scaling"]["short_factor"]
    assert list(rope.long_factor) == published["rope_scaling"]["long_factor"]
    assert len(rope.short_factor) == len(rope.long_factor) == 48
    assert rope.original_max_position_embeddings == 4096
    assert math.isclose(rope.attention_factor, 1.1902381, abs_tol=5e-8)


def test_phi_3_5_differs_in_its_crops_and_its_rope_factors_only(shared):
    phi_3, phi_3_5 = from_checkpoint(shared / PHI_3), from_checkpoint(shared / PHI_3_5)

    assert phi_3_5.name_or_path == "Phi-3.5-vision-instruct"
    assert phi_3_5.vision.num_crops == 4
    assert phi_3_5.text.rope_scaling != phi_3.text.rope_scaling
    assert replace(phi_3_5.vision, num_crops=16) == phi_3.vision
    assert replace(phi_3_5.text, rope_scaling=phi_3.text.rope_scaling) == phi_3.text


@pytest.mark.parametrize(
    ("size", "scaled", "rows", "cols", "num_tokens"),
    [
        ((1000, 1000), (672, 672), 2, 2, 757),  # (2·2+1)·144 + 1 + 3·12
        ((1900, 1069), (672, 378), 2, 2, 757),
        ((2000, 90), (1344, 60), 1, 4, 745),  # (1·4+1)·144 + 1 + 2·12
    ],
)
def test_phi_3_5_cuts_a_picture_into_at_most_four_crops(
    shared, size, scaled, rows, cols, num_tokens
):
    vision = from_checkpoint(shared / PHI_3_5).vision

    assert hd_size(*size, vision) == scaled
    assert num_image_tokens(rows, cols, vision) == num_tokens


def test_the_tiny_model_states_its_tower(config):
    assert config.name_or_path == "tiny-phi3v"
    assert (config.text.hidden_size, config.text.num_heads, config.text.num_layers) == (192, 2, 2)
    vision = config.vision
    assert (vision.hidden_size, vision.intermediate_size) == (128, 256)
    assert (vision.num_layers, vision.num_heads) == (3, 2)
    assert vision.num_crops == 16


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "phi3"),
        ("hidden_act", "gelu"),
        ("tie_word_embeddings", True),
        ("attention_bias", True),
        ("partial_rotary_factor", 0.5),
        ("quantization_config", {"quant_method": "awq"}),
        ("num_attention_heads", 31),
        ("num_attention_heads", 1024),  # 3 per head: cannot be rotated in pairs
        ("num_attention_heads", 32.0),
        ("num_key_value_heads", 8),
        ("sliding_window", 2047),
        ("vocab_size", 0),
        ("vocab_size", -1),
        ("vocab_size", "32064"),
        ("vocab_size", True),
        ("vocab_size", None),
        ("hidden_size", 0),
        ("intermediate_size", [8192]),
        ("num_hidden_layers", 0),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", math.nan),
        ("rope_theta", "10000"),
        ("rope_theta", math.inf),
        ("max_position_embeddings", None),
        ("original_max_position_embeddings", 0),
        ("original_max_position_embeddings", 1),  # its logarithm is a divisor
        ("rope_scaling", None),
        ("rope_scaling", "su"),
        ("rope_scaling.type", "yarn"),
        ("rope_scaling.type", None),
        ("rope_scaling.short_factor", [1.0]),
        ("rope_scaling.short_factor", None),
        ("rope_scaling.short_factor", ["1.0"] * 48),
        ("rope_scaling.short_factor", [None] * 48),
        ("rope_scaling.short_factor", [0.0] * 48),
        ("rope_scaling.short_factor", [-1.0] * 48),
        ("rope_scaling.long_factor", [1.0] * 49),
        ("rope_scaling.long_factor", {"a": 1}),
        ("rope_scaling.long_factor", ["x"] * 48),
        ("embd_layer", None),
        ("embd_layer.embedding_cls", "audio"),
        ("embd_layer.hd_transform_order", "glb_sub"),
        ("embd_layer.projection_cls", "linear"),
        ("embd_layer.use_hd_transform", False),
        ("embd_layer.with_learnable_separator", False),
        ("img_processor", []),
        ("img_processor.name", "siglip"),
        ("img_processor.layer_idx", -1),
        ("img_processor.type_feature", "cls_patch"),
        ("img_processor.image_dim_out", 768),
        ("img_processor.num_img_tokens", 576),
        ("img_processor.clip_config", None),
        ("img_processor.clip_config.num_channels", 1),
        ("img_processor.clip_config.hidden_act", "gelu"),
        ("img_processor.clip_config.hidden_size", 0),
        ("img_processor.clip_config.intermediate_size", 2.5),
        ("img_processor.clip_config.num_hidden_layers", 1),
        ("img_processor.clip_config.num_attention_heads", False),
        ("img_processor.clip_config.num_attention_heads", 3),  # does not divide 1024
        ("img_processor.clip_config.image_size", 224 + 14),
        ("img_processor.clip_config.patch_size", 0),
        ("img_processor.clip_config.layer_norm_eps", "small"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_field_of_the_config_that_is_not_implemented_is_named(shared, tmp_path, field, value):
    directory = edited(shared / PHI_3, tmp_path, "config.json", field, value)

    with pytest.raises(UnsupportedConfigError) as refusal:
        from_checkpoint(directory)

    assert f"config.json: {field} is {value!r}" in str(refusal.value)
    assert (refusal.value.file, refusal.value.field) == ("config.json", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_crops", 0),
        ("num_crops", "16"),
        ("num_crops", None),
        ("image_mean", [0.5, 0.5]),
        ("image_mean", None),
        ("image_std", ["a", "b", "c"]),
        ("image_std", 0.5),
        ("image_std", [0.0, 0.0, 0.0]),  # divisors
        ("num_img_tokens", 100),
    ],
)
def test_a_field_of_the_preprocessor_that_is_not_implemented_is_named(
    shared, tmp_path, field, value
):
    directory = edited(shared / PHI_3, tmp_path, "preprocessor_config.json", field, value)

    with pytest.raises(UnsupportedConfigError) as refusal:
        from_checkpoint(directory)

    assert f"preprocessor_config.json: {field} is {value!r}" in str(refusal.value)


@pytest.mark.parametrize(
    "field",
    [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "max_position_embeddings",
        "original_max_position_embeddings",
        "rope_scaling",
        "rope_scaling.long_factor",
        "embd_layer",
        # Missing, they would mean something else to the published code.
        "embd_layer.hd_transform_order",
        "embd_layer.projection_cls",
        "embd_layer.use_hd_transform",
        "embd_layer.with_learnable_separator",
        "img_processor",
    ],
)
def test_a_missing_field_is_named(shared, tmp_path, field):
    directory = edited(shared / PHI_3, tmp_path, "config.json", field, MISSING)

    with pytest.raises(UnsupportedConfigError, match=rf"config\.json: {field} is None"):
        from_checkpoint(directory)


@pytest.mark.parametrize("window", [None, 131072, 262144])
def test_a_sliding_window_that_never_slides_is_fine(shared, tmp_path, window):
    edited(shared / PHI_3, tmp_path, "config.json", "sliding_window", window)

    assert from_checkpoint(tmp_path) == from_checkpoint(shared / PHI_3)


def test_transformers_name_of_the_rope_is_understood(shared, tmp_path):
    edited(shared / PHI_3, tmp_path, "config.json", "rope_scaling.type", "longrope")

    assert from_checkpoint(tmp_path) == from_checkpoint(shared / PHI_3)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_file_that_is_missing_or_no_object_is_named(shared, tmp_path, file, content):
    edited(shared / PHI_3, tmp_path, "config.json", "vocab_size", 32064)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)

    with pytest.raises(UnsupportedConfigError, match=f"^{file}: "):
        from_checkpoint(tmp_path)


def test_every_card_loads():
    assert card_ids() == ["demo", "demo-random", PHI_3, PHI_3_5]
    for card_id in card_ids():
        card = load_card(card_id)
        assert card.id == card_id
        assert card.served_name
        assert card.images_per_turn >= 1
        assert card.images_kept >= 1
        assert {"<|end|>", "<|endoftext|>"} <= set(card.stop_tokens)
        assert card.temperature >= 0
        assert 0 < card.top_p <= 1
        assert card.max_tokens >= 1
        # Weights that can be fetched are pinned to a commit.
        assert card.hub_id is None or len(card.revision) == 40


def test_phi_3_vision_keeps_one_image_and_turns_system_into_user():
    card = load_card(PHI_3)

    assert card.served_name == "Phi-3-vision-128k-Instruct"
    assert (card.images_per_turn, card.images_kept, card.system_role) == (1, 1, "user")


@pytest.mark.parametrize("card_id", ["phi-4", "", "../cards/demo", "demo.toml"])
def test_an_unknown_card_is_refused_and_the_known_ones_named(card_id):
    with pytest.raises(UnknownCardError) as refusal:
        load_card(card_id)

    assert repr(card_id) in str(refusal.value)
    assert f"demo, demo-random, {PHI_3}, {PHI_3_5}" in str(refusal.value)


@pytest.mark.parametrize(
    ("name_or_path", "card_id"),
    [
        ("Phi-3-vision-128k-instruct", PHI_3),
        ("microsoft/Phi-3.5-vision-instruct", PHI_3_5),
        ("Phi-3.5-vision-instruct/", PHI_3_5),
        ("somebody/phi-3.5-vision-receipts", PHI_3_5),
        ("tiny-phi3v", PHI_3),
        ("demo", "demo"),
        ("", PHI_3),
    ],
)
def test_a_checkpoint_finds_its_card_by_its_name(name_or_path, card_id):
    assert card_for(name_or_path).id == card_id


def test_a_hub_id_finds_its_card():
    assert card_of_hub_id("microsoft/Phi-3.5-vision-instruct").id == PHI_3_5
    assert card_of_hub_id("somebody/else") is None
