"""The demo's config.json, preprocessor_config.json and model.safetensors, in the genuine layout."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from scoring.random_checkpoint import EMBD_LAYER

from .vocabulary import write_tokenizer

CROP, PATCH, NUM_CROPS = 112, 14, 4
HIDDEN, LAYERS, HEADS, INTERMEDIATE = 256, 5, 4, 768
VISION_HIDDEN, VISION_LAYERS, VISION_HEADS = 192, 5, 3
CONTEXT, SHORT_CONTEXT = 8192, 4096


def write_description(directory: Path) -> None:
    """All of the checkpoint but its weights."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory / "tokenizer.json")
    vocab_size = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
    preprocessor = {
        "num_crops": NUM_CROPS,
        "num_img_tokens": (CROP // PATCH // 2) ** 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    for name, values in (
        ("config.json", _config(vocab_size)),
        ("preprocessor_config.json", preprocessor),
    ):
        (directory / name).write_text(json.dumps(values, indent=1) + "\n")


def write_weights(model: nn.Module, directory: Path) -> None:
    """In bfloat16, under the names of the genuine checkpoint."""
    tensors = {
        name: parameter.detach().to(torch.bfloat16).contiguous()
        for name, parameter in model.named_parameters()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _config(vocab_size: int) -> dict[str, Any]:
    factors = [1.0] * (HIDDEN // HEADS // 2)
    return {
        "_name_or_path": "demo",
        "architectures": ["Phi3VForCausalLM"],
        "model_type": "phi3_v",
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT,
        "original_max_position_embeddings": SHORT_CONTEXT,
        "rope_scaling": {"type": "su", "short_factor": factors, "long_factor": factors},
        "torch_dtype": "bfloat16",
        "embd_layer": EMBD_LAYER,
        "img_processor": {
            "name": "clip_vision_model",
            "num_img_tokens": (CROP // PATCH // 2) ** 2,
            "image_dim_out": VISION_HIDDEN,
            "clip_config": {
                "hidden_size": VISION_HIDDEN,
                "intermediate_size": 4 * VISION_HIDDEN,
                "num_hidden_layers": VISION_LAYERS,
                "num_attention_heads": VISION_HEADS,
                "image_size": CROP,
                "patch_size": PATCH,
            },
        },
    }
