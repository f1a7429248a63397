"""Triton kernels for CUDA: decode attention over the paged cache, and the pieces of kernels.py.

Nothing here has run on a GPU yet. The kernels are right in Triton's interpreter (started with
TRITON_INTERPRET=1, they take tensors on the CPU), and compile for every architecture from sm_80 to
sm_100 without a spilled register; how fast they are is not known.

Importing a module of this package imports triton, which torch's CUDA builds bring: import them only
where these kernels were chosen. They launch on the current CUDA device.
"""

from ..kernels import Kernels


def triton_kernels() -> Kernels:
    """The pieces of kernels.py. Tensors are contiguous, on the current CUDA device."""
    from . import pieces

    return Kernels(
        "triton",
        pieces.rms_norm,
        pieces.add_rms_norm,
        pieces.rotate_and_write,
        pieces.swiglu,
    )
