"""Decodes through torch.compile, for processors without AVX-512."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...kv_cache import LayerCache
from .sdpa import Decodes, SdpaBackend


def paged_decode(
    query: Tensor, keys: Tensor, values: Tensor, slots: Tensor, mask: Tensor
) -> Tensor:
    """Attention of one token per row, read straight from the cache. Worth it only compiled: then
    no gathered copy of the keys is made.

    query: (S, heads, head_dim). keys, values: (num_slots, heads, head_dim). slots, mask: (S, L),
    where masked slots must still be readable. → (S, heads, head_dim).
    """
    scale = query.shape[-1] ** -0.5
    scores = (query[:, None].float() * keys[slots].float()).sum(-1) * scale  # (S, L, heads)
    weights = scores.masked_fill(~mask[:, :, None], float("-inf")).softmax(dim=1)
    output: Tensor = (weights[..., None] * values[slots].float()).sum(1)
    return output.to(query.dtype)


class CompiledBackend(SdpaBackend):
    """SdpaBackend whose decodes run through paged_decode, which copies no keys: on a CPU, and in
    bfloat16 above all, SDPA is slow for a single query."""

    name = "compiled"

    def __init__(self, decode: Callable[..., Tensor] | None = None, block_size: int = 16) -> None:
        """decode: paged_decode; None for it through torch.compile."""
        super().__init__(block_size)
        self._paged_decode = decode or torch.compile(paged_decode, dynamic=True)

    def _decode(self, query: Tensor, cache: LayerCache, rows: Decodes) -> Tensor:
        return self._paged_decode(query, cache.keys, cache.values, rows.slots, rows.mask)
