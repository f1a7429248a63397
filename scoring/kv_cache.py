"""The tensors behind the blocks, and how many blocks there is memory for."""

from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from model_config import ModelConfig

from .large_pages import empty_in_large_pages

# On a CPU the cache shares the memory with everything else. A small model needs no more than one
# longest context's worth, or 32 users' with 4,096 tokens each.
_CPU_FRACTION, _CPU_CAP_BYTES, _CPU_CAP_TOKENS = 0.4, 4 << 30, 1 << 17
# Of a GPU's memory, what the process may use in all; the rest is for the driver and fragmentation.
_GPU_FRACTION = 0.9


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values, each (num_slots, heads, head_dim)."""

    keys: Tensor
    values: Tensor


class KVCache:
    """Keys and values of all layers, by slot: slot = block * block_size + offset.

    data: (layers, 2, num_slots, heads, head_dim). Behind the blocks that sequences get lies one
    more, spare_block: rows that only fill up a captured step write there.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        text = config.text
        num_slots = (num_blocks + 1) * block_size
        shape = (text.num_layers, 2, num_slots, text.num_heads, text.head_dim)
        if device.type == "cpu":
            self.data = empty_in_large_pages(shape, dtype)
        else:
            self.data = torch.empty(shape, dtype=dtype, device=device)
        # Takes the memory now: at first use it would cost prompts a quarter of their time.
        self.data.zero_()
        self._layers = [LayerCache(layer[0], layer[1]) for layer in self.data]
        self.num_blocks = num_blocks
        self.spare_block = num_blocks
        self.block_size = block_size

    def layer(self, index: int) -> LayerCache:
        return self._layers[index]


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Memory of one token's keys and values in all layers."""
    return config.text.num_layers * 2 * config.text.hidden_size * dtype.itemsize


def activation_bytes(
    config: ModelConfig, max_num_batched_tokens: int, max_crops: int, dtype: torch.dtype
) -> int:
    """What a step needs beside weights and cache, roughly: the widest tensors of a layer for a
    full batch, in the model's dtype and in float32, and the tower's for max_crops."""
    text, vision = config.text, config.vision
    widest = 3 * text.hidden_size + 2 * text.intermediate_size
    decoder = max_num_batched_tokens * widest * (dtype.itemsize + 4)
    patches = max_crops * (vision.tokens_per_crop * 4 + 1)
    tower = patches * (4 * vision.hidden_size + 2 * vision.intermediate_size) * (dtype.itemsize + 4)
    return decoder + tower


def cache_bytes(activations: int, token_bytes: int, device: torch.device) -> int:
    """The memory to spend on the cache: measured free memory, less the activations of a step."""
    if device.type != "cuda":
        free = int(psutil.virtual_memory().available * _CPU_FRACTION)
        return min(free, _CPU_CAP_BYTES, _CPU_CAP_TOKENS * token_bytes)
    free, total = torch.cuda.mem_get_info(device)
    spendable = free - int((1 - _GPU_FRACTION) * total)
    return spendable - activations
