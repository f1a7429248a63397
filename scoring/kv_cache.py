"""The tensors behind the blocks."""

from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from model_config import ModelConfig

from .large_pages import empty_in_large_pages

# On a CPU the cache shares the memory with everything else. A small model needs no more than one
# longest context's worth, or 32 users' with 4,096 tokens each.
_CPU_FRACTION, _CPU_CAP_BYTES, _CPU_CAP_TOKENS = 0.4, 4 << 30, 1 << 17


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


def cpu_cache_bytes(token_bytes: int, data_parallel: int = 1) -> int:
    """The memory that a CPU has to spare for the cache, as measured now. data_parallel: engines
    that share it, and all measure."""
    free = int(available_bytes() * _CPU_FRACTION)
    return min(min(free, _CPU_CAP_BYTES) // data_parallel, _CPU_CAP_TOKENS * token_bytes)


def available_bytes() -> int:
    """Of the machine's memory, what is not in use."""
    return int(psutil.virtual_memory().available)


def process_bytes() -> int:
    """What this process has of it."""
    return int(psutil.Process().memory_info().rss)
