"""Holds a backend to plain attention, on the device and in the dtype that it is to serve in.

A kernel may be built for another card, mistake a layout or leave a mask out; what comes out are
words all the same. So every start compares, on shapes of the model at hand, in less than a second.
"""

from collections.abc import Sequence as Items
from dataclasses import replace

import torch
from torch import Tensor

from model_config import ModelConfig

from ...batch import to_flat_batch
from ...kv_cache import KVCache
from ...scheduler import ScheduledRow
from ...sequence import SamplingParams, Sequence
from ..kernels import EAGER, Kernels
from .interface import AttentionBackend

# Of outputs near 1, that a right kernel's rounding may be off by: a few units in the last place,
# which is 2^-8, 2^-11 and 2^-24. A wrong mask, scale or block is off by several times as much; one
# lost key of hundreds is not, and is a matter for the kernels' own tests.
TOLERANCES = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-4}
# Of a value in e4m3: half a step of its three bits, or of the smallest number's, and a trifle.
_FLOAT8_STEPS, _FLOAT8_FLOOR = 15, 1e-4
# Rows as (tokens of this step, tokens with them in the cache): within a block, at its end, beyond
# it; whole prompts, and ones that follow on a prefix.
_DECODES = [(1, 1), (1, 16), (1, 17), (1, 256), (1, 257), (1, 600)]
_PROMPTS = [(5, 5), (70, 70), (33, 300)]


def largest_error(
    backend: AttentionBackend,
    kernels: Kernels,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    float8: bool = False,
) -> float:
    """Of what `attend` gives, after `rotate_and_write`, beside plain attention in float32: in a
    batch of decodes, in a mixed one, and for a mixed one's newest tokens. NaN where a slot that
    holds nothing was read. float8: with a cache in 8 bits, beside plain attention to what is then
    in it, if that is near what was written."""
    errors = [0.0]
    for rows in (_DECODES, _DECODES[:3] + _PROMPTS):
        errors += _errors(backend, kernels, config, dtype, device, float8, rows)
    return max(errors, key=lambda error: (error != error, error))


def pieces_error(
    kernels: Kernels, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> float:
    """The largest difference between these kernels, which keep the cache as torch does, and the
    plain ones."""
    text = config.text
    random = torch.Generator().manual_seed(2)

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device, dtype)

    x, residual = make(5, text.hidden_size), make(5, text.hidden_size)
    weight, gate_up = make(text.hidden_size), make(5, 2 * text.intermediate_size)
    qkv, angles = make(5, 3 * text.hidden_size), make(5, 1, text.head_dim // 2).repeat(1, 1, 2)
    slots = torch.tensor([3, 0, 17, 16, 5], device=device)
    one_layer = replace(config, text=replace(text, num_layers=1))

    def results(of: Kernels) -> list[Tensor]:
        cache = KVCache(one_layer, 1, 16, dtype, device).layer(0)
        query = of.rotate_and_write(qkv, angles.cos(), angles.sin(), cache, slots)
        return [
            of.rms_norm(x, weight, 1e-5),
            *of.add_rms_norm(x, residual, weight, 1e-5),
            of.swiglu(gate_up),
            query,
            cache.keys,
            cache.values,
        ]

    # Relative to the size, where that is more than 1: the last place grows with it.
    errors = [
        float(((ours.float() - plain.float()).abs() / plain.float().abs().clamp(min=1)).max())
        for ours, plain in zip(results(kernels), results(EAGER), strict=True)
    ]
    return max(errors, key=lambda error: (error != error, error))


def _errors(
    backend: AttentionBackend,
    kernels: Kernels,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    float8: bool,
    lengths: Items[tuple[int, int]],
) -> list[float]:
    size, heads, head_dim = backend.block_size, config.text.num_heads, config.text.head_dim
    num_blocks = sum(-(-total // size) for _, total in lengths)
    one_layer = replace(config, text=replace(config.text, num_layers=1))
    stored = torch.float8_e4m3fn if float8 else dtype
    whole = KVCache(one_layer, num_blocks, size, stored, device)
    if whole.scales is not None:
        whole.scales.fill_(torch.nan)
    else:
        whole.data.fill_(torch.nan)
    cache = whole.layer(0)
    free = iter(torch.randperm(num_blocks, generator=torch.Generator().manual_seed(1)).tolist())
    rows, queries, expected = [], [], []
    for seed, (num_tokens, total) in enumerate(lengths):
        sequence = Sequence(str(seed), [1] * total, SamplingParams(max_tokens=1))
        sequence.block_table = [next(free) for _ in range(-(-total // size))]
        row = ScheduledRow(sequence, total - num_tokens, num_tokens)
        random = torch.Generator().manual_seed(seed)
        qkv = torch.randn(total, 3 * heads * head_dim, generator=random).to(device, dtype)
        slots = to_flat_batch([ScheduledRow(sequence, 0, total)], size, device).slot_mapping
        # Rotated by nothing, so that plain attention needs no rotation; pieces_error sees to it.
        ones = torch.ones(total, 1, head_dim, dtype=dtype, device=device)
        query = kernels.rotate_and_write(qkv, ones, torch.zeros_like(ones), cache, slots)
        given = qkv.view(total, 3, heads, head_dim).float()
        if float8:
            stored_now = torch.stack(cache.read(slots, torch.float32), dim=1)
            off = (stored_now - given[:, 1:]).abs()
            if not bool((off <= given[:, 1:].abs() / _FLOAT8_STEPS + _FLOAT8_FLOOR).all()):
                return [torch.nan]
            given = torch.cat((given[:, :1], stored_now), dim=1)
        rows.append(row)
        queries.append(query[-num_tokens:])
        expected.append(plain_attention(given)[-num_tokens:])
    batch = to_flat_batch(rows, size, device)
    every = torch.cat(queries)
    attended = [backend.attend(every, cache, backend.plan(batch))]
    newest = backend.plan(batch.of_last_tokens())
    attended.append(backend.attend(every[batch.last_tokens], cache, newest))
    right = torch.cat(expected)
    rights = [right, right[batch.last_tokens]]
    return [float((a.float() - r).abs().max()) for a, r in zip(attended, rights, strict=True)]


def plain_attention(qkv: Tensor) -> Tensor:
    """Causal attention of a whole sequence in float32. (T, 3, heads, head_dim) → (T, heads,
    head_dim)."""
    query, key, value = qkv.float().permute(1, 2, 0, 3)  # (heads, T, head_dim) each
    scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    future = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    attended: Tensor = scores.masked_fill(future, -torch.inf).softmax(-1) @ value
    return attended.transpose(0, 1)
