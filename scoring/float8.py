"""Vectors in 8 bits: e4m3 values, and for each vector the float32 scale that they are to be
multiplied by. Plain torch: models/triton_kernels/float8.py is the same for CUDA."""

import torch
from torch import Tensor

# e4m3's largest value.
LARGEST = 448.0
# Vectors with no larger element become zeros, and no scale is subnormal.
SMALLEST_AMAX = 1e-20


def to_float8(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(…, dim) → the values' bytes, uint8, alike, and the scales, (…). A vector with a NaN or an
    infinity has the scale NaN or infinity: it reads as no number again."""
    wide = vectors.float()
    scales = wide.abs().amax(-1).clamp_min(SMALLEST_AMAX) / LARGEST
    # Rounded up by the division, the largest element may be a trifle above LARGEST.
    values = (wide / scales[..., None]).clamp(-LARGEST, LARGEST)
    return values.to(torch.float8_e4m3fn).view(torch.uint8), scales


def from_float8(values: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """What to_float8 was given, to two or three digits, in dtype."""
    return values.view(torch.float8_e4m3fn).to(dtype).mul_(scales[..., None])
