"""The small memory-bound pieces of a step, each one function over plain tensors.

Run as they stand, or compiled by torch.compile, which fuses each into one pass over memory;
native_kernels.py has the same ones by hand, for processors with AVX-512.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kv_cache import LayerCache


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of (T, hidden), computed in float32 whatever the dtype."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """→ the norm of x + residual, and x + residual."""
    residual = residual + x
    return rms_norm(residual, weight, eps), residual


def rotate_and_write(
    qkv: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache, slots: Tensor
) -> Tensor:
    """Rotate queries and keys by half-rotation (element i pairs with i + head_dim / 2), put keys
    and values in their slots, and return the queries.

    qkv: (T, 3 * heads * head_dim). cos, sin: (T, 1, head_dim). cache: written in place.
    slots: (T,). → (T, heads, head_dim).
    """
    query, key, value = qkv.view(len(qkv), 3, *cache.keys.shape[1:]).unbind(1)

    def rotate(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    cache.write(slots, rotate(key), value)
    return rotate(query)


def swiglu(gate_up: Tensor) -> Tensor:
    """(T, 2 * intermediate), the gate first → (T, intermediate)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return up * F.silu(gate)


@dataclass(frozen=True)
class Kernels:
    """One way to run the pieces, and its name."""

    name: str
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rotate_and_write: Callable[[Tensor, Tensor, Tensor, LayerCache, Tensor], Tensor]
    swiglu: Callable[[Tensor], Tensor]


EAGER = Kernels("eager", rms_norm, add_rms_norm, rotate_and_write, swiglu)


def compiled_kernels() -> Kernels:
    """The same pieces through torch.compile. The first calls take seconds: warm up before use."""
    return Kernels(
        "compiled",
        torch.compile(rms_norm, dynamic=True),
        torch.compile(add_rms_norm, dynamic=True),
        torch.compile(rotate_and_write, dynamic=True),
        torch.compile(swiglu, dynamic=True),
    )
