"""Checkpoints of random weights in Phi-3-vision's layout, for machines that have no others: made
once, kept in the temporary folder.

    python -m benchmark.checkpoints small

makes those of a size and prints where they are. All have a tokenizer, so that they can be served,
and greedy answers are as long as they are asked to be.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from scoring.random_checkpoint import EMBD_LAYER, write_random_weights

from .text_twin import write_text_twin
from .vocabulary import NEVER_SAID, VOCAB_SIZE, write_tokenizer

SizeName = Literal["tiny", "small", "mid", "full"]

_CACHE = Path(tempfile.gettempdir()) / "phi3v-bench"
_CONTEXT, _SHORT_CONTEXT = 131072, 4096
_CROP, _PATCH, _NUM_CROPS = 336, 14, 16


@dataclass(frozen=True)
class _Size:
    """Of the decoder, then of the tower. weights: in bfloat16."""

    weights: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    context: int = _CONTEXT


# Heads of the decoder are 96 wide, as the genuine ones: kernels care. Those of small are not, and
# its context has one regime of rotary factors: so its decoder is transformers' Phi-3, too.
_SIZES: dict[SizeName, _Size] = {
    "tiny": _Size("0.03 GB", 192, 256, 2, 2, 128, 3, 2),
    "small": _Size("0.6 GB", 1024, 2816, 16, 16, 512, 12, 8, _SHORT_CONTEXT),
    "mid": _Size("1.2 GB", 1536, 4096, 16, 16, 512, 12, 8),
    "full": _Size("8.3 GB", 3072, 8192, 32, 32, 1024, 24, 16),  # the genuine sizes
}


@dataclass(frozen=True)
class CheckpointPair:
    """model: phi3_v with a picture tower. twin: its decoder alone, as transformers' phi3."""

    model: Path
    twin: Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=get_args(SizeName))
    size: SizeName = parser.parse_args().size
    print(random_checkpoint(size))
    if size == "small":
        print(checkpoint_pair().twin)


def random_checkpoint(size: SizeName) -> Path:
    """Its directory."""

    def write(made: Path) -> None:
        print(f"making random weights of {_SIZES[size].weights} …", file=sys.stderr, flush=True)
        _write_configuration(made, _SIZES[size])
        write_tokenizer(made)
        write_random_weights(made, never_said=NEVER_SAID)

    return _made_once(f"random-{size}", write)


def checkpoint_pair() -> CheckpointPair:
    """The size small, and its decoder for others to run."""
    model = random_checkpoint("small")
    return CheckpointPair(
        model, _made_once("random-small-text", lambda made: write_text_twin(model, made))
    )


def _made_once(name: str, write: Callable[[Path], None]) -> Path:
    directory = _CACHE / name
    if (directory / "config.json").exists():
        return directory
    _CACHE.mkdir(parents=True, exist_ok=True)
    # Made aside and moved: one that was cut short is never taken for whole.
    with tempfile.TemporaryDirectory(dir=_CACHE) as aside:
        made = Path(aside) / "model"
        made.mkdir()
        write(made)
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)
    return directory


def _write_configuration(directory: Path, size: _Size) -> None:
    tokens_per_crop = (_CROP // _PATCH // 2) ** 2
    config: dict[str, Any] = {
        "_name_or_path": "random",
        "model_type": "phi3_v",
        "torch_dtype": "bfloat16",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": size.context,
        "original_max_position_embeddings": _SHORT_CONTEXT,
        "rope_scaling": _rope_scaling(size),
        "embd_layer": EMBD_LAYER,
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


def _rope_scaling(size: _Size) -> dict[str, Any]:
    num_factors = size.hidden // size.heads // 2
    if size.context == _SHORT_CONTEXT:
        ones = [1.0] * num_factors
        return {"type": "su", "short_factor": ones, "long_factor": ones}
    return {  # like the genuine ones, the two regimes' divisors are far apart
        "type": "su",
        "short_factor": np.geomspace(1.05, 3, num_factors).tolist(),
        "long_factor": np.geomspace(1.03, 65, num_factors).tolist(),
    }


if __name__ == "__main__":
    main()
