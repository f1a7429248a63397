"""Attention by the native kernels, for processors with AVX-512."""

from torch import Tensor

from ...batch import FlatBatch
from ...kv_cache import LayerCache
from ..native_kernels import NativeKernels


class CpuBackend:
    """The native kernel, which reads the cache through block tables, prompts and decodes alike."""

    name = "cpu"
    can_capture = True

    def __init__(self, native: NativeKernels, block_size: int = 16) -> None:
        self.block_size = block_size
        self._native = native

    def plan(self, batch: FlatBatch) -> FlatBatch:
        return batch

    def attend(self, query: Tensor, cache: LayerCache, metadata: FlatBatch) -> Tensor:
        return self._native.attend(
            query,
            cache,
            metadata.block_tables,
            metadata.query_starts,
            metadata.key_lens,
            self.block_size,
        )
