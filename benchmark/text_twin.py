"""The decoder of a random checkpoint as a plain phi3 of transformers', for those who serve text
only. Of text both compute the same, as the checkpoint has one regime of rotary factors, all 1."""

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_DECODER = ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head.")
_ALIKE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("rms_norm_eps", "rope_theta", "max_position_embeddings", "original_max_position_embeddings"),
    "torch_dtype",
)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write_text_twin(model: Path, directory: Path) -> None:
    """The twin of a checkpoint into a directory that is there."""
    tensors: dict[str, torch.Tensor] = {}
    for file in model.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            tensors |= {
                name: opened.get_tensor(name)
                for name in opened.keys()  # noqa: SIM118 - it is no mapping
                if name.startswith(_DECODER)
            }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    for name in _TOKENIZER:
        shutil.copy(model / name, directory)
    theirs = json.loads((model / "config.json").read_text())
    pieces = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    config = {name: theirs[name] for name in _ALIKE} | {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "num_key_value_heads": theirs["num_attention_heads"],
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": len(pieces),  # <|endoftext|>: the first after all pieces
        "pad_token_id": len(pieces),
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))
