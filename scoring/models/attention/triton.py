"""Attention by our own Triton kernel for decodes, and torch's for prompts."""

from dataclasses import dataclass

from torch import Tensor

from ...batch import FlatBatch
from ...kv_cache import LayerCache
from ..triton_kernels.paged_decode import paged_decode
from .sdpa import SdpaBackend


@dataclass(frozen=True)
class _PagedDecodes:
    """Rows start … end, of one token each, whose keys the kernel finds by itself."""

    start: int
    end: int
    block_tables: Tensor
    key_lens: Tensor


class TritonBackend(SdpaBackend):
    """SdpaBackend whose decodes read the cache through block tables, with no gather; in 8 bits too.

    Blocks may be small, and so they are: prefixes are shared by the block, and each lane of the
    kernel looks up its own. Not run on a GPU by its authors yet.
    """

    name = "triton"
    can_capture = True

    def _plan_decodes(self, batch: FlatBatch) -> list[_PagedDecodes]:
        rows = batch.num_decodes
        if not rows:
            return []
        return [_PagedDecodes(0, rows, batch.block_tables[:rows], batch.key_lens[:rows])]

    def _decode(self, query: Tensor, cache: LayerCache, rows: _PagedDecodes) -> Tensor:
        return paged_decode(query, cache, rows.block_tables, rows.key_lens, self.block_size)
