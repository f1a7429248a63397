"""The reference: torch's scaled_dot_product_attention, on any device."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch import FlatBatch
from ...kv_cache import LayerCache


@dataclass(frozen=True)
class _Prefill:
    """A row of several tokens: its place in the flat batch, its keys' slots, its mask."""

    start: int
    end: int
    slots: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class SdpaMetadata:
    """decode_slots, decode_mask: (S, L), the slots of the decode rows' keys, padded."""

    num_decodes: int
    decode_slots: Tensor
    decode_mask: Tensor
    prefills: list[_Prefill]


class SdpaBackend:
    """torch's scaled_dot_product_attention on gathered keys: decodes padded to one batch, prefill
    rows one by one. Right on any device; the gather makes it the slowest."""

    name = "sdpa"
    can_capture = False

    def __init__(self, block_size: int = 16) -> None:
        self.block_size = block_size

    def plan(self, batch: FlatBatch) -> SdpaMetadata:
        assert batch.context_lens is not None
        decodes = batch.num_decodes
        longest = max(batch.context_lens[:decodes], default=0)
        device = batch.positions.device
        slots = self._slots(batch.block_tables[:decodes], longest)  # (S, L)
        mask = torch.arange(longest, device=device) < batch.key_lens[:decodes, None]
        # Padding reads the row's own first key: a slot never written could hold a NaN, and
        # masked or not, 0 * NaN is NaN.
        slots = torch.where(mask, slots, slots[:, :1])
        prefills = []
        for row, (start, end) in enumerate(pairwise([0, *accumulate(batch.query_lens)])):
            if row < decodes:
                continue
            length = batch.context_lens[row]
            causal = None
            if length > end - start:
                queries = torch.arange(length - (end - start), length, device=device)
                causal = torch.arange(length, device=device) <= queries[:, None]
            keys = self._slots(batch.block_tables[row : row + 1], length)[0]
            prefills.append(_Prefill(start, end, keys, causal))
        return SdpaMetadata(decodes, slots, mask, prefills)

    def attend(self, query: Tensor, cache: LayerCache, metadata: SdpaMetadata) -> Tensor:
        output = torch.empty_like(query)
        decodes = metadata.num_decodes
        if decodes:
            output[:decodes] = self._decode(query[:decodes], cache, metadata)
        for row in metadata.prefills:
            output[row.start : row.end] = F.scaled_dot_product_attention(
                query[row.start : row.end].transpose(0, 1)[None],  # (1, heads, tokens, head_dim)
                cache.keys[row.slots].transpose(0, 1)[None],
                cache.values[row.slots].transpose(0, 1)[None],
                attn_mask=row.mask,
                is_causal=row.mask is None,
            )[0].transpose(0, 1)
        return output

    def _decode(self, query: Tensor, cache: LayerCache, metadata: SdpaMetadata) -> Tensor:
        return F.scaled_dot_product_attention(
            query.unsqueeze(2),  # (S, heads, 1, head_dim)
            cache.keys[metadata.decode_slots].transpose(1, 2),  # (S, heads, L, head_dim)
            cache.values[metadata.decode_slots].transpose(1, 2),
            attn_mask=metadata.decode_mask[:, None, None],
        ).squeeze(2)

    def _slots(self, block_tables: Tensor, length: int) -> Tensor:
        """The slots of tokens 0 … length of each row, (S, length)."""
        positions = torch.arange(length, device=block_tables.device)
        blocks = block_tables[:, positions // self.block_size]
        return blocks.long() * self.block_size + positions % self.block_size
