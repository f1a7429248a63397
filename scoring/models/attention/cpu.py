"""Attention by the native kernels, for processors with AVX-512."""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ...batch import FlatBatch
from ..native_kernels import NativeKernels


@dataclass(frozen=True)
class _CpuMetadata:
    """int32: block_tables (S, B), query_starts (S + 1,), context_lens (S,)."""

    block_tables: Tensor
    query_starts: Tensor
    context_lens: Tensor


class CpuBackend:
    """The native kernel, which reads the cache through block tables, prompts and decodes alike."""

    name = "cpu"

    def __init__(self, native: NativeKernels, block_size: int = 16) -> None:
        self.block_size = block_size
        self._native = native

    def plan(self, batch: FlatBatch) -> _CpuMetadata:
        starts = [0, *accumulate(batch.query_lens)]
        return _CpuMetadata(
            batch.block_tables,
            torch.tensor(starts, dtype=torch.int32),
            torch.tensor(batch.context_lens, dtype=torch.int32),
        )

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, metadata: _CpuMetadata) -> Tensor:
        return self._native.attend(
            query,
            keys,
            values,
            metadata.block_tables,
            metadata.query_starts,
            metadata.context_lens,
            self.block_size,
        )
