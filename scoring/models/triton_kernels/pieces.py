"""The memory-bound pieces of kernels.py, each one pass over memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...kv_cache import LayerCache
from .float8 import LARGEST, scale_of, to_float8
from .ops import BUILD_OPTIONS, operator

# Heads that a program of rotate_and_write takes: so many lines of 192 bytes are a few KiB.
HEADS_AT_ONCE = 8
# Elements that a program of swiglu takes, with four warps eight for each thread.
SWIGLU_AT_ONCE = 1024


@triton.jit
def norm_row(
    x,  # (T, SIZE)
    residual,  # (T, SIZE), or None: nothing is added
    weight,  # (SIZE,)
    output,  # (T, SIZE)
    total,  # (T, SIZE): x + residual
    eps,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    ADDS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, PADDED)
    inside = columns < SIZE
    places = row * SIZE + columns
    # All in float32, but rounded where plain torch rounds.
    dtype: tl.constexpr = x.dtype.element_ty
    wide = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        wide += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
        rounded = wide.to(dtype)
        tl.store(total + places, rounded, mask=inside)
        wide = rounded.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, axis=0) / SIZE + eps)
    factor = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    scaled = factor * wide.to(dtype).to(tl.float32)
    tl.store(output + places, scaled.to(dtype), mask=inside)


@triton.jit
def swiglu_row(gate_up, output, SIZE: tl.constexpr, AT_ONCE: tl.constexpr):
    """gate_up: (T, 2 * SIZE), the gate first. output: (T, SIZE)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    inside = columns < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + columns, mask=inside, other=0.0)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + columns, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    product = (up.to(tl.float32) * silu).to(gate.dtype)
    tl.store(output + row * SIZE + columns, product, mask=inside)


@triton.jit
def rotate_and_write_heads(
    qkv,  # (T, 3, heads, HEAD_DIM)
    cos,  # (T, HEAD_DIM); sin alike
    sin,
    slots,  # (T,) int64
    query,  # (T, heads, HEAD_DIM)
    keys,  # (num_slots, heads, HEAD_DIM); values alike
    values,
    key_scales,  # (num_slots, heads) float32, value_scales alike; None without FLOAT8
    value_scales,
    num_heads,
    HEAD_DIM: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    HEADS: tl.constexpr,
    FLOAT8: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    dims = tl.arange(0, PADDED_HALF)
    half: tl.constexpr = HEAD_DIM // 2
    in_half = dims < half
    mask = (heads < num_heads)[:, None] & in_half[None, :]
    offsets = heads[:, None] * HEAD_DIM + dims[None, :]
    first_cos = tl.load(cos + token * HEAD_DIM + dims, mask=in_half, other=0.0).to(tl.float32)
    second_cos = tl.load(cos + token * HEAD_DIM + half + dims, mask=in_half, other=0.0)
    first_sin = tl.load(sin + token * HEAD_DIM + dims, mask=in_half, other=0.0).to(tl.float32)
    second_sin = tl.load(sin + token * HEAD_DIM + half + dims, mask=in_half, other=0.0)
    second_cos = second_cos.to(tl.float32)
    second_sin = second_sin.to(tl.float32)
    slot = tl.load(slots + token)
    line = slot * num_heads + heads  # of (num_slots, heads)
    for part in tl.static_range(3):  # query, key, value
        source = qkv + (token * 3 + part) * num_heads * HEAD_DIM + offsets
        first = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(source + half, mask=mask, other=0.0).to(tl.float32)
        if part < 2:
            turned = first * first_cos[None, :] - second * first_sin[None, :]
            second = second * second_cos[None, :] + first * second_sin[None, :]
            first = turned
        if part == 0:
            place = query + token * num_heads * HEAD_DIM + offsets
            tl.store(place, first.to(query.dtype.element_ty), mask=mask)
            tl.store(place + half, second.to(query.dtype.element_ty), mask=mask)
        else:
            cache = keys if part == 1 else values
            scales = key_scales if part == 1 else value_scales
            place = cache + line[:, None] * HEAD_DIM + dims[None, :]
            if FLOAT8:
                scale = scale_of(first, second)
                tl.store(scales + line, scale, mask=heads < num_heads)
                first = to_float8(tl.clamp(first / scale[:, None], -LARGEST, LARGEST))
                second = to_float8(tl.clamp(second / scale[:, None], -LARGEST, LARGEST))
            tl.store(place, first.to(keys.dtype.element_ty), mask=mask)
            tl.store(place + half, second.to(keys.dtype.element_ty), mask=mask)


def norm_options(size: int, *, adds: bool) -> dict[str, int]:
    """What norm_row is compiled for."""
    return {
        "SIZE": size,
        "PADDED": triton.next_power_of_2(size),
        "ADDS": adds,
        "num_warps": 8,
        **BUILD_OPTIONS,
    }


def swiglu_options(size: int) -> dict[str, int]:
    """What swiglu_row is compiled for."""
    return {"SIZE": size, "AT_ONCE": SWIGLU_AT_ONCE, "num_warps": 4, **BUILD_OPTIONS}


def rotate_options(head_dim: int, *, is_float8: bool) -> dict[str, int]:
    """What rotate_and_write_heads is compiled for."""
    return {
        "HEAD_DIM": head_dim,
        "PADDED_HALF": triton.next_power_of_2(head_dim // 2),
        "HEADS": HEADS_AT_ONCE,
        "FLOAT8": is_float8,
        "num_warps": 2,  # a thread then reads 16 bytes at a time
        **BUILD_OPTIONS,
    }


@operator(
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    lambda x, weight, eps: torch.empty_like(x),
)
def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    output = torch.empty_like(x)
    size = x.shape[-1]
    if len(x):
        norm_row[(len(x),)](x, None, weight, output, None, eps, **norm_options(size, adds=False))
    return output


@operator(
    "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
    lambda x, residual, weight, eps: (torch.empty_like(x), torch.empty_like(x)),
)
def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    output, total = torch.empty_like(x), torch.empty_like(x)
    size = x.shape[-1]
    if len(x):
        norm_row[(len(x),)](
            x, residual, weight, output, total, eps, **norm_options(size, adds=True)
        )
    return output, total


@operator(
    "swiglu(Tensor gate_up) -> Tensor",
    lambda gate_up: gate_up.new_empty(len(gate_up), gate_up.shape[-1] // 2),
)
def _swiglu(gate_up: Tensor) -> Tensor:
    size = gate_up.shape[-1] // 2
    output = gate_up.new_empty(len(gate_up), size)
    if len(output):
        grid = (len(output), triton.cdiv(size, SWIGLU_AT_ONCE))
        swiglu_row[grid](gate_up, output, **swiglu_options(size))
    return output


def _fake_query(qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, *others: object) -> Tensor:
    return qkv.new_empty(len(qkv), *keys.shape[1:])


@operator(
    "rotate_and_write(Tensor qkv, Tensor cos, Tensor sin, Tensor(a!) keys, Tensor(b!) values, "
    "Tensor(c!)? key_scales, Tensor(d!)? value_scales, Tensor slots) -> Tensor",
    _fake_query,
)
def _rotate_and_write(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
    slots: Tensor,
) -> Tensor:
    num_heads, head_dim = keys.shape[1:]
    query = qkv.new_empty(len(qkv), num_heads, head_dim)
    if len(qkv):
        rotate_and_write_heads[(len(qkv), triton.cdiv(num_heads, HEADS_AT_ONCE))](
            qkv,
            cos,
            sin,
            slots,
            query,
            keys,
            values,
            key_scales,
            value_scales,
            num_heads,
            **rotate_options(head_dim, is_float8=key_scales is not None),
        )
    return query


def rotate_and_write(
    qkv: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache, slots: Tensor
) -> Tensor:
    """As kernels.rotate_and_write; the cache may be in 8 bits."""
    query: Tensor = _rotate_and_write(
        qkv, cos, sin, cache.keys, cache.values, cache.key_scales, cache.value_scales, slots
    )
    return query


rms_norm, add_rms_norm, swiglu = _rms_norm, _add_rms_norm, _swiglu
