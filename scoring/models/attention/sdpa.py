"""The reference: torch's own attention on gathered keys, on any device."""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch import FlatBatch
from ...kv_cache import LayerCache

# Keys that are gathered for one call, of decodes padded to the longest of them: with 32 heads of 96
# in two bytes, keys and values take 0.4 GB. One row may have more.
_MAX_GATHERED = 1 << 15


@dataclass(frozen=True)
class Decodes:
    """Rows start … end, of one token each. slots, mask: (end - start, L), the slots of their keys,
    padded."""

    start: int
    end: int
    slots: Tensor
    mask: Tensor


@dataclass(frozen=True)
class _Prefill:
    """A row of several tokens: its place in the flat batch, its keys' slots, its mask."""

    start: int
    end: int
    slots: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class _Prefills:
    """All rows of several tokens, which begin at start. slots: of all their keys, row after row.
    query_starts, key_starts: int32 running sums from 0."""

    start: int
    slots: Tensor
    query_starts: Tensor
    key_starts: Tensor
    max_query_len: int
    max_key_len: int


@dataclass(frozen=True)
class SdpaMetadata:
    """Decodes in groups, each with a start and an end, then either every prompt by itself or all
    together."""

    decodes: list[Any]
    prefills: list[_Prefill] | _Prefills


class SdpaBackend:
    """torch's attention on gathered keys. Right on any device; the gather makes it the slowest.

    Decodes are padded to batches. Prompts run one by one through scaled_dot_product_attention or,
    where that can be, all in one call of torch's varlen attention, which needs no mask in memory.
    """

    name = "sdpa"
    can_capture = False

    def __init__(self, block_size: int = 16, *, varlen: bool = False) -> None:
        """varlen: for CUDA from capability 8.0 on, in two-byte dtypes. Not run on a GPU by its
        authors yet."""
        self.block_size = block_size
        self._varlen = varlen

    def plan(self, batch: FlatBatch) -> SdpaMetadata:
        first = batch.num_decodes
        if first == len(batch.query_lens):
            return SdpaMetadata(self._plan_decodes(batch), [])
        prefills = self._plan_prefills(batch) if self._varlen else self._plan_each(batch)
        return SdpaMetadata(self._plan_decodes(batch), prefills)

    def attend(self, query: Tensor, cache: LayerCache, metadata: SdpaMetadata) -> Tensor:
        output = torch.empty_like(query)
        for group in metadata.decodes:
            rows = slice(group.start, group.end)
            output[rows] = self._decode(query[rows], cache, group)
        if isinstance(metadata.prefills, _Prefills):
            start = metadata.prefills.start
            output[start:] = self._prefill(query[start:], cache, metadata.prefills)
            return output
        for row in metadata.prefills:
            keys, values = cache.read(row.slots, query.dtype)
            output[row.start : row.end] = F.scaled_dot_product_attention(
                query[row.start : row.end].transpose(0, 1)[None],  # (1, heads, tokens, head_dim)
                keys.transpose(0, 1)[None],
                values.transpose(0, 1)[None],
                attn_mask=row.mask,
                is_causal=row.mask is None,
            )[0].transpose(0, 1)
        return output

    def _plan_each(self, batch: FlatBatch) -> list[_Prefill]:
        assert batch.context_lens is not None
        first, prefills = batch.num_decodes, []
        bounds = list(pairwise([0, *accumulate(batch.query_lens)]))[first:]
        for row, (start, end) in enumerate(bounds, first):
            length = batch.context_lens[row]
            causal = None
            if length > end - start:
                device = batch.key_lens.device
                queries = torch.arange(length - (end - start), length, device=device)
                causal = torch.arange(length, device=device) <= queries[:, None]
            keys = self._slots(batch.block_tables[row : row + 1], length)[0]
            prefills.append(_Prefill(start, end, keys, causal))
        return prefills

    def _plan_decodes(self, batch: FlatBatch) -> list[Any]:
        """Groups of rows, in order, none of which gathers more than it should."""
        assert batch.context_lens is not None
        groups, start, longest = [], 0, 0
        for row, length in enumerate(batch.context_lens[: batch.num_decodes]):
            grown = max(longest, length)
            if row > start and (row + 1 - start) * grown > _MAX_GATHERED:
                groups.append(self._decodes(batch, start, row, longest))
                start, grown = row, length
            longest = grown
        if batch.num_decodes:
            groups.append(self._decodes(batch, start, batch.num_decodes, longest))
        return groups

    def _decodes(self, batch: FlatBatch, start: int, end: int, longest: int) -> Decodes:
        slots = self._slots(batch.block_tables[start:end], longest)  # (S, L)
        positions = torch.arange(longest, device=slots.device)
        mask = positions < batch.key_lens[start:end, None]
        # Padding reads the row's own first key: a slot never written could hold a NaN, and
        # masked or not, 0 * NaN is NaN.
        return Decodes(start, end, torch.where(mask, slots, slots[:, :1]), mask)

    def _plan_prefills(self, batch: FlatBatch) -> _Prefills:
        assert batch.context_lens is not None
        first = batch.num_decodes
        lengths = batch.context_lens[first:]
        tables = batch.block_tables[first:]
        slots = [
            self._slots(tables[row : row + 1], length)[0] for row, length in enumerate(lengths)
        ]
        return _Prefills(
            start=first,  # a decode is one token
            slots=torch.cat(slots),
            query_starts=batch.query_starts[first:] - first,
            key_starts=F.pad(batch.key_lens[first:].cumsum(0, dtype=torch.int32), (1, 0)),
            max_query_len=max(batch.query_lens[first:]),
            max_key_len=max(lengths),
        )

    def _decode(self, query: Tensor, cache: LayerCache, rows: Any) -> Tensor:
        """(S, heads, head_dim) → the same."""
        keys, values = cache.read(rows.slots, query.dtype)
        return F.scaled_dot_product_attention(
            query.unsqueeze(2),  # (S, heads, 1, head_dim)
            keys.transpose(1, 2),  # (S, heads, L, head_dim)
            values.transpose(1, 2),
            attn_mask=rows.mask[:, None, None],
        ).squeeze(2)

    def _prefill(self, query: Tensor, cache: LayerCache, rows: _Prefills) -> Tensor:
        """(T, heads, head_dim) → the same, of all prompts."""
        # Not in every version of torch that serves without it.
        from torch.nn.attention.varlen import varlen_attn

        output = varlen_attn(
            query,
            *cache.read(rows.slots, query.dtype),
            rows.query_starts,
            rows.key_starts,
            rows.max_query_len,
            rows.max_key_len,
            window_size=(-1, 0),  # causal, aligned to the end of the keys
        )
        assert isinstance(output, Tensor)
        return output

    def _slots(self, block_tables: Tensor, length: int) -> Tensor:
        """The slots of tokens 0 … length of each row, (S, length)."""
        positions = torch.arange(length, device=block_tables.device)
        blocks = block_tables[:, positions // self.block_size]
        return blocks.long() * self.block_size + positions % self.block_size
