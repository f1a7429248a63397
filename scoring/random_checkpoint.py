"""Checkpoints of random weights in the genuine layout, of any size: for benchmarks and tests.

Their words are noise. They go through the same files, names and code as the published weights.
"""

import json
import math
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from model_config import from_checkpoint

from .weights import build_empty

_SEED = 7
_SHARD_BYTES = 4 << 30
_DEMO_CONTEXT, _DEMO_SHORT_CONTEXT = 8192, 4096
_HIDDEN, _HEADS, _VISION_HIDDEN = 192, 2, 64

EMBD_LAYER = {
    "embedding_cls": "image",
    "hd_transform_order": "sub_glb",
    "projection_cls": "mlp",
    "use_hd_transform": True,
    "with_learnable_separator": True,
}
"""Of a config.json: how pictures become embeddings, the only way that there is."""


def write_random_weights(
    directory: Path,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = _SHARD_BYTES,
    never_said: Collection[int] = (),
) -> None:
    """Fill a directory that has config.json and preprocessor_config.json with random weights.

    Scaled so that activations keep their size through the layers. Seeded: the same bytes each time.
    never_said: tokens whose logit is always 0. Of many others one is above that, so a greedy answer
    has none of them.
    """
    shapes = {
        name: tuple(p.shape)
        for name, p in build_empty(from_checkpoint(directory)).named_parameters()
    }
    generator = torch.Generator().manual_seed(_SEED)
    shards: list[dict[str, torch.Tensor]] = [{}]
    files: dict[str, str] = {}
    size = total = 0
    num_shards = math.ceil(sum(map(math.prod, shapes.values())) * dtype.itemsize / shard_bytes)

    def save() -> None:
        number = len(set(files.values())) + 1
        file = f"model-{number:05d}-of-{num_shards:05d}.safetensors"
        save_file(shards[-1], directory / file, metadata={"format": "pt"})
        files.update(dict.fromkeys(shards[-1], file))
        shards[-1] = {}

    for name, shape in shapes.items():
        tensor = _random(name, shape, generator).to(dtype)
        if name == "lm_head.weight":
            tensor[list(never_said)] = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
        if size >= shard_bytes:
            save()
            size = 0
    if shards[-1]:
        save()
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if name.endswith(".bias"):
        return torch.randn(shape, generator=generator) * 0.02
    if "norm" in name:
        return 1 + torch.randn(shape, generator=generator) * 0.05
    if "embed_tokens" in name or len(shape) != 2:  # embeddings, separators, patch kernels
        fan_in = math.prod(shape[1:]) if name.endswith("patch_embedding.weight") else 4
        return torch.randn(shape, generator=generator) / math.sqrt(fan_in)
    return torch.randn(shape, generator=generator) / math.sqrt(shape[1])


def write_demo_checkpoint(directory: Path) -> None:
    """Write a smallest model that goes by the card demo-random: two layers, crops of 112 pixels, a
    vocabulary of characters. For all that does not depend on what is said."""
    working = directory.with_name(directory.name + ".part")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    tokenizer = character_tokenizer()
    tokenizer.save(str(working / "tokenizer.json"))
    config = _demo_config(tokenizer.get_vocab_size())
    preprocessor = {
        "num_crops": 16,
        "num_img_tokens": config["img_processor"]["num_img_tokens"],
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (working / "config.json").write_text(json.dumps(config, indent=1))
    (working / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))
    write_random_weights(working, torch.float32)
    # Renamed when it is whole: a build that was cut short is never taken for a model.
    shutil.rmtree(directory, ignore_errors=True)
    working.rename(directory)


def _demo_config(vocab_size: int) -> dict[str, Any]:
    crop, patch = 112, 14
    factors = [1.0] * (_HIDDEN // _HEADS // 2)
    return {
        "_name_or_path": "demo-random",
        "model_type": "phi3_v",
        "vocab_size": vocab_size,
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": _HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": _DEMO_CONTEXT,
        "original_max_position_embeddings": _DEMO_SHORT_CONTEXT,
        "rope_scaling": {"type": "su", "short_factor": factors, "long_factor": factors},
        "embd_layer": EMBD_LAYER,
        "img_processor": {
            "name": "clip_vision_model",
            "num_img_tokens": (crop // patch // 2) ** 2,
            "image_dim_out": _VISION_HIDDEN,
            "clip_config": {
                "hidden_size": _VISION_HIDDEN,
                "intermediate_size": 2 * _VISION_HIDDEN,
                "num_hidden_layers": 2,
                "num_attention_heads": 1,
                "image_size": crop,
                "patch_size": patch,
            },
        },
    }


def character_tokenizer(longer: Sequence[str] = ()) -> Tokenizer:
    """The genuine tokenizer's parts around a vocabulary of ASCII characters and bytes.

    longer: more pieces; each is one that comes before it, and a character.
    """
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(code) for code in range(0x21, 0x7F)]
    pieces += longer
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[(piece[:-1], piece[-1]) for piece in longer],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True, rstrip=token == "<|assistant|>")
            for token in ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
        ]
    )
    return tokenizer
