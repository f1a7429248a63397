"""Which backend a device gets."""

import importlib.util

import torch

from ..kernels import EAGER, Kernels, compiled_kernels
from ..native_kernels import NativeKernels
from .compiled import CompiledBackend
from .cpu import CpuBackend
from .flash import FlashAttnBackend
from .interface import AttentionBackend
from .sdpa import SdpaBackend


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
