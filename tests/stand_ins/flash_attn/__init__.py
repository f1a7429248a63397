"""Stands in for the package flash-attn, which needs a GPU.

Two of its functions, with the arguments that version 2.8.3 publishes (`flash_attn_interface.py`),
the rules that its kernels check (`csrc/flash_attn/flash_api.cpp`), and plain attention inside. What
the kernels would refuse raises ValueError. A device other than a GPU passes, so that it can be
tested.
"""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__version__ = "2.8.3"


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Tensor:
    require(block_table is not None, "here the cache is always paged")
    _check(q, k, v, block_table)
    rows = len(cu_seqlens_q) - 1
    require(rows > 0 and q.dim() == 3, "q is (total, heads, head_dim), of one row at least")
    for name, sums in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        require(sums.dtype is torch.int32, f"{name} must have dtype int32")
        require(sums.is_contiguous() and sums.shape == (rows + 1,), f"{name} is (rows + 1,)")
        require(sums.device == q.device, f"{name} is on another device")
    require(block_table.shape[0] == rows, "block_table has a row for each sequence")
    for name, length in (("max_seqlen_q", max_seqlen_q), ("max_seqlen_k", max_seqlen_k)):
        require(isinstance(length, int), f"{name} is an int on the host")
    if isinstance(q, FakeTensor):
        return torch.empty_like(q)
    query_lens, key_lens = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    require(int(cu_seqlens_q[0]) == int(cu_seqlens_k[0]) == 0, "the sums begin at 0")
    require(int(cu_seqlens_q[-1]) == len(q), "the sums end at the number of queries")
    require(max_seqlen_q >= max(query_lens) and max_seqlen_k >= max(key_lens), "max is a maximum")
    queries = q.split(query_lens)
    return _attend(queries, k, v, block_table, key_lens, causal, softmax_scale).to(q.dtype)


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor:
    require(block_table is not None and cache_seqlens is not None, "here the cache is paged")
    _check(q, k_cache, v_cache, block_table)
    require(q.dim() == 4 and len(q) > 0, "q is (batch, seqlen, heads, head_dim)")
    require(len(block_table) == len(q), "block_table has a row for each sequence")
    require(cache_seqlens.dtype is torch.int32, "seqlens_k must have dtype int32")
    require(cache_seqlens.is_contiguous(), "seqlens_k must be contiguous")
    require(cache_seqlens.shape == (len(q),), "seqlens_k is (batch,)")
    require(cache_seqlens.device == q.device, "seqlens_k is on another device")
    if isinstance(q, FakeTensor):
        return torch.empty_like(q)
    key_lens = cache_seqlens.tolist()
    output = _attend(tuple(q), k_cache, v_cache, block_table, key_lens, causal, softmax_scale)
    return output.view(q.shape).to(q.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, block_table: Tensor) -> None:
    require(q.dtype in (torch.float16, torch.bfloat16), "only fp16 and bf16 data type")
    for name, x in (("query", q), ("key", k), ("value", v)):
        require(x.dtype == q.dtype, f"query and {name} must have the same dtype")
        require(x.stride(-1) == 1, f"{name} must have contiguous last dimension")
        require(x.device == q.device, f"{name} is on another device")
    require(k.dim() == 4 and k.shape == v.shape, "the cache is (blocks, block, heads, head_dim)")
    require(k.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256")
    require(q.shape[-1] <= 256 and q.shape[-1] % 8 == 0, "head_dim is a multiple of 8, up to 256")
    require(q.shape[-2] % k.shape[2] == 0, "heads of keys must divide those of queries")
    require(block_table.dtype is torch.int32, "block_table must have dtype torch.int32")
    require(block_table.stride(-1) == 1, "block_table must have contiguous last dimension")
    require(block_table.device == q.device, "block_table is on another device")


def _attend(
    queries: tuple[Tensor, ...],
    k: Tensor,
    v: Tensor,
    block_table: Tensor,
    key_lens: list[int],
    causal: bool,
    softmax_scale: float | None,
) -> Tensor:
    outputs = []
    for query, table, length in zip(queries, block_table.long(), key_lens, strict=True):
        keys, values = (x[table].flatten(0, 1)[:length].float() for x in (k, v))
        scale = softmax_scale or query.shape[-1] ** -0.5
        scores = torch.einsum("qhd,khd->hqk", query.float(), keys) * scale
        if causal:  # aligned to the end of the keys
            last = torch.arange(length - len(query), length)
            scores.masked_fill_(torch.arange(length) > last[:, None], -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values))
    return torch.cat(outputs)


def require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)
