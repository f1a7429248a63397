"""The tensors behind the blocks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model_config import ModelConfig

from .float8 import from_float8, to_float8
from .large_pages import empty_in_large_pages


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values, each (num_slots, heads, head_dim).

    key_scales, value_scales: (num_slots, heads) float32 where the values are in 8 bits: uint8, see
    float8.py. Else None.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    def write(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """slots: (T,). keys, values: (T, heads, head_dim)."""
        if self.key_scales is not None and self.value_scales is not None:
            keys, key_scales = to_float8(keys)
            values, value_scales = to_float8(values)
            self.key_scales.index_copy_(0, slots, key_scales)
            self.value_scales.index_copy_(0, slots, value_scales)
        self.keys.index_copy_(0, slots, keys)
        self.values.index_copy_(0, slots, values)

    def read(self, slots: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """slots of any shape → keys and values, (…, heads, head_dim). dtype: what 8 bits are turned
        into."""
        keys, values = self.keys[slots], self.values[slots]
        if self.key_scales is None or self.value_scales is None:
            return keys, values
        return (
            from_float8(keys, self.key_scales[slots], dtype),
            from_float8(values, self.value_scales[slots], dtype),
        )


class KVCache:
    """Keys and values of all layers, by slot: slot = block * block_size + offset.

    data: (layers, 2, num_slots, heads, head_dim); for the dtype float8_e4m3fn in bytes, beside
    scales (layers, 2, num_slots, heads). Behind the blocks that sequences get lies one more,
    spare_block: rows that only fill up a captured step write there.
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
        is_float8 = dtype is torch.float8_e4m3fn
        stored = torch.uint8 if is_float8 else dtype
        if device.type == "cpu":
            self.data = empty_in_large_pages(shape, stored)
        else:
            self.data = torch.empty(shape, dtype=stored, device=device)
        # Takes the memory now: at first use it would cost prompts a quarter of their time.
        self.data.zero_()
        self.scales = torch.zeros(shape[:-1], device=device) if is_float8 else None
        self._layers = [
            LayerCache(
                *data.unbind(), *([] if self.scales is None else self.scales[layer].unbind())
            )
            for layer, data in enumerate(self.data)
        ]
        self.num_blocks = num_blocks
        self.spare_block = num_blocks
        self.block_size = block_size

    def layer(self, index: int) -> LayerCache:
        return self._layers[index]


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Memory of one token's keys and values in all layers, scales included. dtype: the cache's."""
    text = config.text
    scales = text.num_heads * torch.float32.itemsize if dtype is torch.float8_e4m3fn else 0
    return text.num_layers * 2 * (text.hidden_size * dtype.itemsize + scales)
