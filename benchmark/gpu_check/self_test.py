"""The errors that every start holds a backend to, for all backends: of attention beside plain
attention in float32, and of our own kernels beside plain torch."""

from collections.abc import Iterator
from importlib.util import find_spec

import torch

from model_config import from_checkpoint
from scoring.models.attention.choose import (
    Candidate,
    cpu_candidates,
    cuda_candidates,
    cuda_kernels,
)
from scoring.models.attention.self_test import TOLERANCES, largest_error, pieces_error
from scoring.models.native_kernels import load_native

from .lab import Lab
from .table import Row, skipped

CHECK = "self-test"


def check_self_test(lab: Lab, name: str) -> Iterator[Row]:
    """Of the backend of that name, in both dtypes; with keys and values in 8 bits, too."""
    config, device = from_checkpoint(lab.model), lab.torch_device
    for dtype in (torch.float32, getattr(torch, lab.half)):
        for float8 in (False, True):
            subject = f"{name}, {str(dtype).removeprefix('torch.')}"
            subject += ", fp8 cache" if float8 else ""
            for candidate in _candidates(lab, dtype, float8):
                if candidate.name != name:
                    continue
                if candidate.lacking:
                    yield skipped(CHECK, subject, candidate.lacking)
                    continue
                backend, kernels = candidate.make()
                with torch.inference_mode():
                    error = largest_error(backend, kernels, config, dtype, device, float8=float8)
                captured = "can" if backend.can_capture else "cannot"
                yield Row(
                    CHECK, subject, "largest error", error, at_most=TOLERANCES[dtype],
                    note=f"blocks of {backend.block_size}, {captured} be captured",
                )  # fmt: skip


def check_pieces(lab: Lab) -> Iterator[Row]:
    """Of the Triton kernels for norms, rotation and SwiGLU."""
    if find_spec("triton") is None:
        yield skipped(CHECK, "Triton kernels", "the package triton is not installed")
        return
    from scoring.models.triton_kernels import triton_kernels  # imports the package

    for dtype in (torch.float32, getattr(torch, lab.half)):
        subject = f"Triton kernels, {str(dtype).removeprefix('torch.')}"
        with torch.inference_mode():
            error = pieces_error(triton_kernels(), lab.model_config, dtype, lab.torch_device)
        yield Row(CHECK, subject, "largest error", error, at_most=TOLERANCES[dtype])


def _candidates(lab: Lab, dtype: torch.dtype, float8: bool) -> list[Candidate]:
    config = lab.model_config
    if lab.device == "cpu":
        native, _ = load_native(dtype, config.text)
        return cpu_candidates(native, compiles=lab.effort.compiles, float8=float8)
    capability = torch.cuda.get_device_capability()
    kernels = cuda_kernels(config, dtype, lab.torch_device)
    return cuda_candidates(dtype, capability, kernels, float8=float8)
