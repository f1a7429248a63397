"""Checkpoints of random weights for machines that have no others: made once, kept in the temporary
folder."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scoring.random_checkpoint import write_random_weights

SizeName = Literal["tiny", "mid", "full"]

_CACHE = Path(tempfile.gettempdir()) / "phi3v-bench"
_VOCABULARY, _CONTEXT, _SHORT_CONTEXT = 32064, 131072, 4096
_CROP, _PATCH, _NUM_CROPS = 336, 14, 16


@dataclass(frozen=True)
class _Size:
    """Of the decoder, then of the tower. Heads of the decoder are 96 wide, as the genuine ones:
    kernels care."""

    hidden: int
    intermediate: int
    layers: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int

    @property
    def heads(self) -> int:
        return self.hidden // 96


_SIZES: dict[SizeName, _Size] = {
    "tiny": _Size(192, 256, 2, 128, 3, 2),
    "mid": _Size(1536, 4096, 16, 512, 12, 8),
    "full": _Size(3072, 8192, 32, 1024, 24, 16),  # the genuine sizes
}


def random_checkpoint(size: SizeName) -> Path:
    """Its directory: 0.03, 1.2 or 8.3 GB in bfloat16. Needs no tokenizer: checks speak in ids."""
    directory = _CACHE / f"gpu-check-{size}"
    if (directory / "config.json").exists():
        return directory
    _CACHE.mkdir(parents=True, exist_ok=True)
    # Made aside and moved: one that was cut short is never taken for whole.
    with tempfile.TemporaryDirectory(dir=_CACHE) as aside:
        made = Path(aside) / "model"
        made.mkdir()
        _write_configuration(made, _SIZES[size])
        write_random_weights(made)
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)
    return directory


def _write_configuration(directory: Path, size: _Size) -> None:
    tokens_per_crop = (_CROP // _PATCH // 2) ** 2
    config: dict[str, Any] = {
        "_name_or_path": "gpu-check",
        "model_type": "phi3_v",
        "vocab_size": _VOCABULARY,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": _CONTEXT,
        "original_max_position_embeddings": _SHORT_CONTEXT,
        # Like the genuine ones, the two regimes' divisors are far apart.
        "rope_scaling": {
            "type": "su",
            "short_factor": np.geomspace(1.05, 3, 48).tolist(),
            "long_factor": np.geomspace(1.03, 65, 48).tolist(),
        },
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "img_processor": {
            "name": "clip_vision_model",
            "num_img_tokens": tokens_per_crop,
            "image_dim_out": size.vision_hidden,
            "clip_config": {
                "hidden_size": size.vision_hidden,
                "intermediate_size": 4 * size.vision_hidden,
                "num_hidden_layers": size.vision_layers,
                "num_attention_heads": size.vision_heads,
                "image_size": _CROP,
                "patch_size": _PATCH,
            },
        },
    }
    preprocessor = {
        "num_crops": _NUM_CROPS,
        "num_img_tokens": tokens_per_crop,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))
