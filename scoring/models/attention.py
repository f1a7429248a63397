"""Attention over the paged cache, behind one small interface.

A backend plans once per step and then, layer by layer, writes the step's keys and values and
attends. `sdpa` runs anywhere and is the reference; `cpu` needs a processor with AVX-512, `compiled`
a C++ compiler; `flash_attn` needs CUDA and its package.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import FlatBatch
from .kernels import EAGER, Kernels, compiled_kernels
from .native_kernels import NativeKernels


class AttentionBackend(Protocol):
    """block_size: tokens of a cache block that this backend wants. Metadata is its own affair."""

    name: str
    block_size: int

    def plan(self, batch: FlatBatch) -> Any:
        """What `attend` needs of the batch, computed once for all layers."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, metadata: Any) -> Tensor:
        """Causal attention of each token over its own sequence.

        query: (T, heads, head_dim). keys, values: one layer of the cache, (num_slots, heads,
        head_dim), this step's tokens already in it. → (T, heads, head_dim).
        """


@dataclass(frozen=True)
class _Prefill:
    """A row of several tokens: its place in the flat batch, its keys' slots, its mask."""

    start: int
    end: int
    slots: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class _SdpaMetadata:
    """decode_slots, decode_mask: (S, L), the slots of the decode rows' keys, padded."""

    num_decodes: int
    decode_slots: Tensor
    decode_mask: Tensor
    prefills: list[_Prefill]


class SdpaBackend:
    """torch's scaled_dot_product_attention on gathered keys: decodes padded to one batch, prefill
    rows one by one. Right on any device; the gather makes it the slowest."""

    name = "sdpa"

    def __init__(self, block_size: int = 16) -> None:
        self.block_size = block_size

    def plan(self, batch: FlatBatch) -> _SdpaMetadata:
        decodes = batch.num_decodes
        longest = max(batch.context_lens[:decodes], default=0)
        device = batch.positions.device
        slots = self._slots(batch.block_tables[:decodes], longest)  # (S, L)
        lengths = torch.tensor(batch.context_lens[:decodes], device=device)
        mask = torch.arange(longest, device=device) < lengths[:, None]
        # Padding reads the row's own first key: a slot never written could hold a NaN, and
        # masked or not, 0 * NaN is NaN.
        slots = torch.where(mask, slots, slots[:, :1])
        ends = torch.tensor(batch.query_lens).cumsum(0).tolist()
        prefills = []
        for row, (start, end) in enumerate(pairwise([0, *ends])):
            if row < decodes:
                continue
            length = batch.context_lens[row]
            causal = None
            if length > end - start:
                queries = torch.arange(length - (end - start), length, device=device)
                causal = torch.arange(length, device=device) <= queries[:, None]
            keys = self._slots(batch.block_tables[row : row + 1], length)[0]
            prefills.append(_Prefill(start, end, keys, causal))
        return _SdpaMetadata(decodes, slots, mask, prefills)

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, metadata: _SdpaMetadata
    ) -> Tensor:
        output = torch.empty_like(query)
        decodes = metadata.num_decodes
        if decodes:
            output[:decodes] = self._decode(query[:decodes], keys, values, metadata)
        for row in metadata.prefills:
            output[row.start : row.end] = F.scaled_dot_product_attention(
                query[row.start : row.end].transpose(0, 1)[None],  # (1, heads, tokens, head_dim)
                keys[row.slots].transpose(0, 1)[None],
                values[row.slots].transpose(0, 1)[None],
                attn_mask=row.mask,
                is_causal=row.mask is None,
            )[0].transpose(0, 1)
        return output

    def _decode(
        self, query: Tensor, keys: Tensor, values: Tensor, metadata: _SdpaMetadata
    ) -> Tensor:
        return F.scaled_dot_product_attention(
            query.unsqueeze(2),  # (S, heads, 1, head_dim)
            keys[metadata.decode_slots].transpose(1, 2),  # (S, heads, L, head_dim)
            values[metadata.decode_slots].transpose(1, 2),
            attn_mask=metadata.decode_mask[:, None, None],
        ).squeeze(2)

    def _slots(self, block_tables: Tensor, length: int) -> Tensor:
        """The slots of tokens 0 … length of each row, (S, length)."""
        positions = torch.arange(length, device=block_tables.device)
        blocks = block_tables[:, positions // self.block_size]
        return blocks.long() * self.block_size + positions % self.block_size


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

    def _decode(
        self, query: Tensor, keys: Tensor, values: Tensor, metadata: _SdpaMetadata
    ) -> Tensor:
        slots, mask = metadata.decode_slots, metadata.decode_mask
        return self._paged_decode(query, keys, values, slots, mask)


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
    block_size = 256

    def __init__(self) -> None:
        from flash_attn import flash_attn_varlen_func  # an extra, imported only here

        self._varlen = flash_attn_varlen_func

    def plan(self, batch: FlatBatch) -> _FlashMetadata:
        def running_sum(lengths: list[int]) -> Tensor:
            sums = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
            return sums.to(batch.positions.device, non_blocking=True)

        return _FlashMetadata(
            running_sum(batch.query_lens),
            running_sum(batch.context_lens),
            max(batch.query_lens, default=0),
            max(batch.context_lens, default=0),
            batch.block_tables,
        )

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, metadata: _FlashMetadata
    ) -> Tensor:
        if not len(query):  # of a step's last layer, when no row emits
            return query
        paged = (-1, self.block_size, *keys.shape[1:])
        output: Tensor = self._varlen(
            query,
            keys.view(paged),
            values.view(paged),
            cu_seqlens_q=metadata.cu_query_lens,
            cu_seqlens_k=metadata.cu_context_lens,
            max_seqlen_q=metadata.max_query_len,
            max_seqlen_k=metadata.max_context_len,
            causal=True,
            block_table=metadata.block_tables,
        )
        return output


def choose_backend(
    device: torch.device, dtype: torch.dtype, native: NativeKernels | None, *, compiles: bool
) -> tuple[AttentionBackend, Kernels, str]:
    """The fastest backend that this device, dtype and installation can run, the kernels that go
    with it, and why it was it. compiles: whether torch.compile may be used on a CPU."""
    if device.type != "cuda":
        if native is not None:
            cpu = CpuBackend(native)
            return cpu, native.kernels(cpu.block_size), "no CUDA device"
        if compiles:
            return CompiledBackend(), compiled_kernels(), "no CUDA device"
        return SdpaBackend(), EAGER, "no CUDA device, no compiled kernels"
    backend, why = _cuda_backend(device, dtype)
    return backend, EAGER, why


def _cuda_backend(device: torch.device, dtype: torch.dtype) -> tuple[AttentionBackend, str]:
    if dtype not in (torch.bfloat16, torch.float16):
        return SdpaBackend(), f"flash-attn has no {dtype} kernels"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return SdpaBackend(), "flash-attn needs compute capability 8.0"
    if importlib.util.find_spec("flash_attn") is None:
        return SdpaBackend(), "the flash-attn package is not installed"
    return FlashAttnBackend(), "the flash-attn package is installed"
