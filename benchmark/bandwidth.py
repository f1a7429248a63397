"""What a decode step cannot beat: reading the weights and the keys once, at the memory's speed."""

import json
import struct
from pathlib import Path

import torch

from .device_time import CPU, best_seconds

_BYTES = 512 << 20


class BandwidthProbe:
    """Measures reading: the sum of a buffer far larger than the caches, best of seven."""

    def __init__(self, device: torch.device = CPU) -> None:
        self._buffer = torch.ones(_BYTES // 4, dtype=torch.float32, device=device)

    def bytes_per_s(self) -> float:
        """On a CPU with as many threads as torch uses now."""
        return _BYTES / best_seconds(self._buffer.sum, self._buffer.device)


def weight_bytes_read(twin: Path) -> int:
    """Bytes of the weights that a decode step of the text twin reads: all but the embeddings, of
    which it reads a row per sequence. Taken from the file's header: what is stored is bfloat16."""
    total = 0
    for file in twin.glob("*.safetensors"):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        for name, tensor in header.items():
            if name not in ("__metadata__", "model.embed_tokens.weight"):
                start, end = tensor["data_offsets"]
                total += end - start
    return total


def kv_bytes_per_token(twin: Path) -> int:
    """Bytes of one token's keys and values in all layers, in bfloat16."""
    config = json.loads((twin / "config.json").read_text())
    heads = config["num_key_value_heads"] / config["num_attention_heads"]
    return int(config["num_hidden_layers"] * 2 * config["hidden_size"] * heads * 2)
