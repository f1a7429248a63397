"""Read a checkpoint's config.json and preprocessor_config.json into frozen facts.

Everything that the code does not implement is refused by the name and the value of its field.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UnsupportedConfigError

# The published code hard-codes these sizes (openai/clip-vit-large-patch14-336); the genuine
# config.json does not carry them.
_VIT_L_14_336: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "layer_norm_eps": 1e-5,
}
_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"


@dataclass(frozen=True)
class RopeScaling:
    """Long-rope: two sets of divisors, one for each of a sequence's two length regimes.

    short_factor, long_factor: head_dim / 2 divisors of the rotary frequencies.
    original_max_position_embeddings: the longest sequence, in tokens, of the short regime.
    attention_factor: what cos and sin are both multiplied with, in either regime.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    attention_factor: float


@dataclass(frozen=True)
class TextConfig:
    """The decoder's sizes. head_dim = hidden_size / num_heads; every query head has its own key."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    rope_scaling: RopeScaling

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class VisionConfig:
    """The tower's sizes and how pictures are cut for it. crop_size: pixels of a crop's side.

    num_crops: the most crops a picture is cut into, its global view not counted.
    image_mean, image_std: of the three channels, for values in 0 … 1.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    crop_size: int
    patch_size: int
    layer_norm_eps: float
    num_crops: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def tokens_per_side(self) -> int:
        """Image tokens along one side of a crop, after the 2×2 merge of patches."""
        return self.crop_size // self.patch_size // 2

    @property
    def tokens_per_crop(self) -> int:
        return self.tokens_per_side**2


@dataclass(frozen=True)
class ModelConfig:
    """All that a checkpoint's files say about its model."""

    name_or_path: str
    text: TextConfig
    vision: VisionConfig


@dataclass
class _Fields:
    """A JSON object whose fields are read with their name at hand for the error."""

    file: str
    values: dict[str, Any]
    prefix: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)

    def refuse(self, name: str, expected: str) -> UnsupportedConfigError:
        return UnsupportedConfigError(
            self.file, self.prefix + name, self.values.get(name), expected
        )

    def number(self, name: str, kind: type[int] | type[float]) -> Any:
        value: Any = self.values.get(name, self.defaults.get(name))
        if not _is_positive(value) or (kind is int and not isinstance(value, int)):
            raise self.refuse(name, f"it must be a positive {kind.__name__}")
        return kind(value)

    def positives(self, name: str, length: int) -> tuple[float, ...]:
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) != length or not all(map(_is_positive, value)):
            raise self.refuse(name, f"it must be a list of {length} positive numbers")
        return tuple(map(float, value))

    def require(self, name: str, allowed: Any, *, optional: bool = True) -> None:
        """The field must have this value. optional: it may also be missing, which means the same;
        not so where the published code's own default is another."""
        if self.values.get(name, allowed if optional else None) != allowed:
            raise self.refuse(name, f"only {allowed!r} is implemented")

    def inside(self, name: str) -> "_Fields":
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.refuse(name, "it must be an object")
        return _Fields(self.file, value, f"{self.prefix}{name}.")


def _is_positive(value: Any) -> bool:
    """Whether a JSON value is a finite number above 0; Python's JSON reads NaN and Infinity."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0


def from_checkpoint(directory: Path) -> ModelConfig:
    """Read the model's description from a checkpoint's directory.

    Raises UnsupportedConfigError for a missing or unreadable file and for every field whose
    value is not implemented.
    """
    config = _read(directory, _CONFIG)
    config.require("model_type", "phi3_v")
    return ModelConfig(
        name_or_path=str(config.values.get("_name_or_path", "")),
        text=_text_config(config),
        vision=_vision_config(config, _read(directory, _PREPROCESSOR)),
    )


def _read(directory: Path, name: str) -> _Fields:
    try:
        values = json.loads((directory / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedConfigError(
            name, "(the file)", None, "it cannot be read as JSON"
        ) from error
    if not isinstance(values, dict):
        raise UnsupportedConfigError(name, "(the file)", type(values).__name__, "not an object")
    return _Fields(name, values)


def _text_config(config: _Fields) -> TextConfig:
    config.require("hidden_act", "silu")
    config.require("tie_word_embeddings", False)
    config.require("attention_bias", False)
    config.require("partial_rotary_factor", 1.0)
    config.require("quantization_config", None)
    hidden, heads = config.number("hidden_size", int), config.number("num_attention_heads", int)
    if hidden % heads or (hidden // heads) % 2:
        raise config.refuse("num_attention_heads", f"it must divide hidden_size {hidden} evenly")
    config.require("num_key_value_heads", heads)
    context = config.number("max_position_embeddings", int)
    window = config.values.get("sliding_window")
    if window is not None and not (_is_positive(window) and window >= context):
        raise config.refuse("sliding_window", f"only null or at least {context} is implemented")
    return TextConfig(
        vocab_size=config.number("vocab_size", int),
        hidden_size=hidden,
        intermediate_size=config.number("intermediate_size", int),
        num_layers=config.number("num_hidden_layers", int),
        num_heads=heads,
        rms_norm_eps=config.number("rms_norm_eps", float),
        rope_theta=config.number("rope_theta", float),
        max_position_embeddings=context,
        rope_scaling=_rope_scaling(config, context, hidden // heads),
    )


def _rope_scaling(config: _Fields, context: int, head_dim: int) -> RopeScaling:
    original = config.number("original_max_position_embeddings", int)
    scaling = config.inside("rope_scaling")
    # `su` is the published name of what transformers calls `longrope`.
    if scaling.values.get("type", scaling.values.get("rope_type")) not in ("su", "longrope"):
        raise scaling.refuse("type", "only 'su' or 'longrope' is implemented")
    if original < 2:
        raise config.refuse("original_max_position_embeddings", "it must be at least 2")
    factors = {
        name: scaling.positives(name, head_dim // 2) for name in ("short_factor", "long_factor")
    }
    stretch = context / original
    attention_factor = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return RopeScaling(
        **factors, original_max_position_embeddings=original, attention_factor=attention_factor
    )


def _vision_config(config: _Fields, preprocessor: _Fields) -> VisionConfig:
    embedding = config.inside("embd_layer")
    embedding.require("embedding_cls", "image")
    embedding.require("hd_transform_order", "sub_glb", optional=False)
    embedding.require("projection_cls", "mlp", optional=False)
    embedding.require("use_hd_transform", True, optional=False)
    embedding.require("with_learnable_separator", True, optional=False)
    tower = config.inside("img_processor")
    tower.require("name", "clip_vision_model")
    tower.require("layer_idx", -2)
    tower.require("type_feature", "patch")
    clip = _Fields(config.file, _VIT_L_14_336, "img_processor.")
    if "clip_config" in tower.values:
        clip = tower.inside("clip_config")
        clip.defaults = _VIT_L_14_336
    clip.require("num_channels", 3)
    clip.require("hidden_act", "quick_gelu")
    tower.require("image_dim_out", clip.number("hidden_size", int))
    vision = VisionConfig(
        hidden_size=clip.number("hidden_size", int),
        intermediate_size=clip.number("intermediate_size", int),
        num_layers=clip.number("num_hidden_layers", int),
        num_heads=clip.number("num_attention_heads", int),
        crop_size=clip.number("image_size", int),
        patch_size=clip.number("patch_size", int),
        layer_norm_eps=clip.number("layer_norm_eps", float),
        num_crops=preprocessor.number("num_crops", int),
        image_mean=preprocessor.positives("image_mean", 3),
        image_std=preprocessor.positives("image_std", 3),
    )
    if vision.crop_size % (2 * vision.patch_size):
        raise clip.refuse("image_size", f"it must be a multiple of {2 * vision.patch_size}")
    if vision.hidden_size % vision.num_heads:
        raise clip.refuse("num_attention_heads", f"it must divide {vision.hidden_size}")
    if vision.num_layers < 2:
        raise clip.refuse("num_hidden_layers", "features come from the last layer but one")
    tower.require("num_img_tokens", vision.tokens_per_crop)
    preprocessor.require("num_img_tokens", vision.tokens_per_crop)
    return vision
