"""Between float32 and e4m3 bytes by integer arithmetic: sm_80 and sm_86 have no such instructions.

e4m3's exponent is biased by 7, float16's by 15. So a byte's exponent and mantissa, put where
float16 has them, read as 1/256 of the value, subnormal ones included: FLOAT8_FACTOR makes up for
it.
"""

import triton
import triton.language as tl

from ...float8 import LARGEST as _LARGEST
from ...float8 import SMALLEST_AMAX as _SMALLEST_AMAX

FLOAT8_FACTOR = tl.constexpr(256.0)
LARGEST = tl.constexpr(_LARGEST)
SMALLEST_AMAX = tl.constexpr(_SMALLEST_AMAX)


@triton.jit
def from_float8(byte):
    """uint8 → float32, the value / FLOAT8_FACTOR."""
    # The sign fills bits 7 … 15, so that the shift leaves it in 15 and, one too many, in 14.
    wide = byte.to(tl.int8, bitcast=True).to(tl.int16)
    return ((wide << 7) & -16385).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def to_float8(x):
    """float32 in -LARGEST … LARGEST → uint8, rounded to nearest, ties to even."""
    # Adding 1.5 * 2^20 times x's power of two rounds x to its upper four bits, or, below the normal
    # numbers, to their last step.
    power = (x.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    magic = tl.maximum(power, 0.015625) * 1572864.0
    rounded = (x + magic) - magic
    half = (rounded * (1.0 / FLOAT8_FACTOR)).to(tl.float16).to(tl.uint16, bitcast=True)
    return (((half >> 8) & 0x80) | ((half >> 7) & 0x7F)).to(tl.uint8)


@triton.jit
def scale_of(first, second):
    """Two halves of vectors, (N, D) float32 → (N,), each vector's scale: its largest magnitude /
    LARGEST."""
    # Magnitudes compare as their bits do, and so NaN is above all. A maximum of floats would lose
    # it, and the row would go on with wrong numbers.
    first_bits = tl.max(first.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)
    second_bits = tl.max(second.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)
    bits = tl.maximum(first_bits, second_bits)
    smallest = tl.full(bits.shape, SMALLEST_AMAX, tl.float32).to(tl.int32, bitcast=True)
    return tl.maximum(bits, smallest).to(tl.float32, bitcast=True) / LARGEST
