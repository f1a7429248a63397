"""Attention by the flash-attn package, an extra."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch import FlatBatch
from ...kv_cache import LayerCache


@dataclass(frozen=True)
class _Decodes:
    """Rows of one token each. key_lens: (S,) int32. block_tables: (S, B) int32."""

    key_lens: Tensor
    block_tables: Tensor


@dataclass(frozen=True)
class _Mixed:
    """Rows of any length. query_starts, key_starts: (S + 1,) int32 running sums from 0."""

    query_starts: Tensor
    key_starts: Tensor
    max_query_len: int
    max_key_len: int
    block_tables: Tensor


class FlashAttnBackend:
    """flash-attn from 2.8 on, which reads the cache through block tables: its kernel for caches
    where all rows are decodes, its kernel for rows of many lengths otherwise.

    Blocks must be a multiple of 256 tokens for it. Not run on a GPU by its authors yet.
    """

    name = "flash_attn"
    block_size = 256
    can_capture = True

    def __init__(self) -> None:
        # An extra, imported only here.
        from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache

        self._varlen = flash_attn_varlen_func
        self._with_kvcache = flash_attn_with_kvcache

    def plan(self, batch: FlatBatch) -> _Decodes | _Mixed:
        if batch.num_decodes == len(batch.query_lens):
            return _Decodes(batch.key_lens, batch.block_tables)
        assert batch.context_lens is not None
        return _Mixed(
            batch.query_starts,
            F.pad(batch.key_lens.cumsum(0, dtype=torch.int32), (1, 0)),
            max(batch.query_lens),
            max(batch.context_lens),
            batch.block_tables,
        )

    def attend(self, query: Tensor, cache: LayerCache, metadata: _Decodes | _Mixed) -> Tensor:
        if not len(query):  # of a step's last layer, when no row emits
            return query
        blocks = (-1, self.block_size, *cache.keys.shape[1:])
        keys, values = cache.keys.view(blocks), cache.values.view(blocks)
        output: Tensor
        if isinstance(metadata, _Decodes):
            output = self._with_kvcache(
                query.unsqueeze(1),  # (S, 1, heads, head_dim)
                keys,
                values,
                cache_seqlens=metadata.key_lens,
                block_table=metadata.block_tables,
                causal=True,
            )
            return output.squeeze(1)
        output = self._varlen(
            query,
            keys,
            values,
            cu_seqlens_q=metadata.query_starts,
            cu_seqlens_k=metadata.key_starts,
            max_seqlen_q=metadata.max_query_len,
            max_seqlen_k=metadata.max_key_len,
            causal=True,  # aligned to the end of the keys
            block_table=metadata.block_tables,
        )
        return output
