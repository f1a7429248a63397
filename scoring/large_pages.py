"""Memory in large pages, for what every step reads whole or in scattered pieces."""

import contextlib
import math
import mmap

import torch
from torch import Tensor

_PAGE_BYTES = 2 << 20


def empty_in_large_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """torch.empty on the CPU, where Linux can in pages of 2 MiB: a step would miss the processor's
    page tables all the time, and small pages may lie so badly that a process's decoding is a
    quarter slower for all its life. Memory is taken when it is first touched, and given back to the
    system when the tensor goes."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes < _PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
