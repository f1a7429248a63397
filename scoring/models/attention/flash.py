"""Attention by the flash-attn package, an extra."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch import FlatBatch
from ...kv_cache import LayerCache


@dataclass(frozen=True)
class _FlashMetadata:
    """cu_query_lens, cu_context_lens: (S + 1,) int32 running sums from 0."""

    cu_query_lens: Tensor
    cu_context_lens: Tensor
    max_query_len: int
    max_context_len: int
    block_tables: Tensor


class FlashAttnBackend:
    """The flash-attn package's varlen kernel, reading the cache through block tables.

    Not run on a GPU by its authors yet; blocks must be a multiple of 256 tokens for it.
    """

    name = "flash_attn"
    can_capture = False
    block_size = 256

    def __init__(self) -> None:
        from flash_attn import flash_attn_varlen_func  # an extra, imported only here

        self._varlen = flash_attn_varlen_func

    def plan(self, batch: FlatBatch) -> _FlashMetadata:
        assert batch.context_lens is not None
        starts = F.pad(batch.key_lens.cumsum(0, dtype=torch.int32), (1, 0))
        return _FlashMetadata(
            batch.query_starts,
            starts,
            max(batch.query_lens, default=0),
            max(batch.context_lens, default=0),
            batch.block_tables,
        )

    def attend(self, query: Tensor, cache: LayerCache, metadata: _FlashMetadata) -> Tensor:
        if not len(query):  # of a step's last layer, when no row emits
            return query
        paged = (-1, self.block_size, *cache.keys.shape[1:])
        output: Tensor = self._varlen(
            query,
            cache.keys.view(paged),
            cache.values.view(paged),
            cu_seqlens_q=metadata.cu_query_lens,
            cu_seqlens_k=metadata.cu_context_lens,
            max_seqlen_q=metadata.max_query_len,
            max_seqlen_k=metadata.max_context_len,
            causal=True,
            block_table=metadata.block_tables,
        )
        return output
