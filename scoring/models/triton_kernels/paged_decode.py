"""Attention of one token per row over the paged cache, split over the context.

A program reads one head's keys and values of one split of one row, a tile of slots at a time. Each
key meets a single query (there are no grouped heads), so this is all memory traffic and no matrix
product: a lane of the tile keeps a running softmax over its own slots, and the lanes meet only at
the end. A second kernel brings the splits of long rows together.

The grid depends on shapes alone, lengths are read on the device: a captured CUDA graph can be
replayed with other lengths. How a row is split depends on its own length alone, so that its result
is the same, bit for bit, in any company.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...kv_cache import LayerCache
from .float8 import FLOAT8_FACTOR, from_float8
from .ops import BUILD_OPTIONS, operator

# 16 splits of 32 heads are 512 programs for a single row, about as many as an H100 holds at once.
# Up to 256 tokens a second kernel would cost more than it brings.
NUM_SPLITS, MIN_SPLIT = 16, 256
# 32 slots are 12 KiB of keys and values in flight per program in bfloat16, in registers few enough
# for four programs or more on a multiprocessor; a tile of 64 would leave room for two.
TILE, NUM_WARPS = 32, 4

# Where running maxima start: finite, so that a lane without a key computes no inf - inf.
_LOWEST = tl.constexpr(-1e38)
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _split_len(length, NUM_SPLITS: tl.constexpr, MIN_SPLIT: tl.constexpr, TILE: tl.constexpr):
    """Tokens of each split of a row, in whole tiles."""
    return tl.maximum(tl.cdiv(tl.cdiv(length, NUM_SPLITS), TILE) * TILE, MIN_SPLIT)


@triton.jit
def attend_split(
    query,  # (S, heads, head_dim)
    keys,  # (num_slots, heads, head_dim); values alike
    values,
    key_scales,  # (num_slots, heads) float32, value_scales alike; None without FLOAT8
    value_scales,
    block_tables,  # (S, width) int32
    key_lens,  # (S,) int32
    output,  # as query: of rows with one split
    partial_outputs,  # (S, heads, NUM_SPLITS, head_dim) float32: of the others
    partial_logs,  # (S, heads, NUM_SPLITS) float32: log2 of their softmax's denominators
    width,
    scale,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    FLOAT8: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    TILE: tl.constexpr,
):
    # Heads run fastest: the programs that read neighbouring lines run side by side.
    head, row, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_heads = tl.num_programs(0)
    length = tl.load(key_lens + row)
    split_len = _split_len(length, NUM_SPLITS, MIN_SPLIT, TILE)
    start = split * split_len
    if (start >= length) & (split > 0):
        return
    end = tl.minimum(start + split_len, length)
    line = row * num_heads + head  # of (S, heads)
    dims = tl.arange(0, PADDED_DIM)
    in_head = dims < HEAD_DIM
    q = tl.load(query + line * HEAD_DIM + dims, mask=in_head, other=0.0).to(tl.float32)
    q *= scale * _LOG2_E  # so that exp2 serves for exp

    lanes = tl.arange(0, TILE)
    highest = tl.full((TILE,), _LOWEST, tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    weighted = tl.zeros((TILE, PADDED_DIM), tl.float32)
    for tile in range(start, end, TILE):
        positions = tile + lanes
        is_key = positions < end
        blocks = tl.load(block_tables + row * width + positions // BLOCK_SIZE, mask=is_key, other=0)
        slots = blocks.to(tl.int64) * BLOCK_SIZE + positions % BLOCK_SIZE
        lines = slots * num_heads + head
        offsets = lines[:, None] * HEAD_DIM + dims[None, :]
        mask = is_key[:, None] & in_head[None, :]
        if FLOAT8:
            key = from_float8(tl.load(keys + offsets, mask=mask, other=0))
            value = from_float8(tl.load(values + offsets, mask=mask, other=0))
            key_scale = tl.load(key_scales + lines, mask=is_key, other=0.0)
            value_scale = tl.load(value_scales + lines, mask=is_key, other=0.0)
            scores = tl.sum(q[None, :] * key, axis=1) * (key_scale * FLOAT8_FACTOR)
        else:
            key = tl.load(keys + offsets, mask=mask, other=0.0).to(tl.float32)
            value = tl.load(values + offsets, mask=mask, other=0.0).to(tl.float32)
            scores = tl.sum(q[None, :] * key, axis=1)
        scores = tl.where(is_key, scores, float("-inf"))
        new_highest = tl.maximum(highest, scores)
        shrink = tl.exp2(highest - new_highest)
        weights = tl.exp2(scores - new_highest)
        total = total * shrink + weights
        if FLOAT8:
            weights *= value_scale * FLOAT8_FACTOR
        weighted = weighted * shrink[:, None] + weights[:, None] * value
        highest = new_highest

    top = tl.max(highest, axis=0)
    shares = tl.exp2(highest - top)
    denominator = tl.sum(total * shares, axis=0)
    attended = tl.sum(weighted * shares[:, None], axis=0)
    # A row without keys gives zeros.
    attended = attended / tl.where(length > 0, denominator, 1.0)
    if length <= split_len:
        tl.store(output + line * HEAD_DIM + dims, attended, mask=in_head)
    else:
        part = line * NUM_SPLITS + split
        tl.store(partial_outputs + part * HEAD_DIM + dims, attended, mask=in_head)
        tl.store(partial_logs + part, top + tl.log2(denominator))


@triton.jit
def join_splits(
    partial_outputs,
    partial_logs,
    key_lens,
    output,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    TILE: tl.constexpr,
):
    """Bring together what attend_split left in parts."""
    head, row = tl.program_id(0), tl.program_id(1)
    length = tl.load(key_lens + row)
    split_len = _split_len(length, NUM_SPLITS, MIN_SPLIT, TILE)
    if length <= split_len:
        return
    line = row * tl.num_programs(0) + head
    splits = tl.arange(0, NUM_SPLITS)
    is_used = splits * split_len < length
    dims = tl.arange(0, PADDED_DIM)
    in_head = dims < HEAD_DIM
    parts = line * NUM_SPLITS + splits
    logs = tl.load(partial_logs + parts, mask=is_used, other=float("-inf"))
    outputs = tl.load(
        partial_outputs + parts[:, None] * HEAD_DIM + dims[None, :],
        mask=is_used[:, None] & in_head[None, :],
        other=0.0,
    )
    weights = tl.exp2(logs - tl.max(logs, axis=0))
    attended = tl.sum(weights[:, None] * outputs, axis=0) / tl.sum(weights, axis=0)
    tl.store(output + line * HEAD_DIM + dims, attended, mask=in_head)


def split_options(head_dim: int, block_size: int, *, is_float8: bool) -> dict[str, int]:
    """What attend_split is compiled for."""
    return {
        "BLOCK_SIZE": block_size,
        "FLOAT8": is_float8,
        **join_options(head_dim),
        "num_warps": NUM_WARPS,
    }


def join_options(head_dim: int) -> dict[str, int]:
    """What join_splits is compiled for."""
    return {
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "NUM_SPLITS": NUM_SPLITS,
        "MIN_SPLIT": MIN_SPLIT,
        "TILE": TILE,
        "num_warps": 1,
        **BUILD_OPTIONS,
    }


def _fake(query: Tensor, *others: object) -> Tensor:
    return torch.empty_like(query)


@operator(
    "paged_decode(Tensor query, Tensor keys, Tensor values, Tensor? key_scales, "
    "Tensor? value_scales, Tensor block_tables, Tensor key_lens, int block_size) -> Tensor",
    _fake,
)
def _paged_decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
    block_tables: Tensor,
    key_lens: Tensor,
    block_size: int,
) -> Tensor:
    num_rows, num_heads, head_dim = query.shape
    output = torch.empty_like(query)
    partial_logs = query.new_empty((num_rows, num_heads, NUM_SPLITS), dtype=torch.float32)
    partial_outputs = query.new_empty((*partial_logs.shape, head_dim), dtype=torch.float32)
    attend_split[(num_heads, num_rows, NUM_SPLITS)](
        query,
        keys,
        values,
        key_scales,
        value_scales,
        block_tables,
        key_lens,
        output,
        partial_outputs,
        partial_logs,
        block_tables.shape[1],
        head_dim**-0.5,
        **split_options(head_dim, block_size, is_float8=key_scales is not None),
    )
    join_splits[(num_heads, num_rows)](
        partial_outputs, partial_logs, key_lens, output, **join_options(head_dim)
    )
    return output


def paged_decode(
    query: Tensor, cache: LayerCache, block_tables: Tensor, key_lens: Tensor, block_size: int
) -> Tensor:
    """Attention of S rows' newest tokens over all of their own. Tensors are contiguous.

    query: (S, heads, head_dim), S > 0, head_dim up to 128. block_tables: (S, B) int32. key_lens:
    (S,) int32; rows of length 0 give zeros. → as query.
    """
    output: Tensor = _paged_decode(
        query,
        cache.keys,
        cache.values,
        cache.key_scales,
        cache.value_scales,
        block_tables,
        key_lens,
        block_size,
    )
    return output
