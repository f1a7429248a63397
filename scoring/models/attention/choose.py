"""Which backend a device gets: the first that can run there and gives the right answers."""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from model_config import ModelConfig

from ...engine_config import AttentionName
from ...errors import CheckpointError
from ..kernels import EAGER, Kernels, compiled_kernels
from ..native_kernels import NativeKernels
from .compiled import CompiledBackend
from .cpu import CpuBackend
from .flash import FlashAttnBackend
from .interface import AttentionBackend
from .sdpa import SdpaBackend
from .self_test import TOLERANCES, largest_error, pieces_error

logger = logging.getLogger(__name__)

_AMPERE = (8, 0)
_NO_FLOAT8 = "it reads no cache in 8 bits"
Made = tuple[AttentionBackend, Kernels]


@dataclass(frozen=True)
class Candidate:
    """A backend that a device could have, with its kernels. lacking: why it cannot have it."""

    name: str
    make: Callable[[], Made]
    lacking: str | None = None


def cpu_candidates(
    native: NativeKernels | None, *, compiles: bool, float8: bool
) -> list[Candidate]:
    """The fastest first. compiles: whether torch.compile may be used. float8: whether the cache is
    in 8 bits."""

    def make_native() -> Made:
        assert native is not None
        backend = CpuBackend(native)
        return backend, native.kernels(backend.block_size)

    narrow = _NO_FLOAT8 if float8 else None
    return [
        Candidate(
            "cpu", make_native, narrow or (None if native else "there are no native kernels")
        ),
        Candidate(
            "compiled",
            lambda: (CompiledBackend(), compiled_kernels()),
            narrow or (None if compiles else "torch.compile is not used"),
        ),
        Candidate("sdpa", lambda: (SdpaBackend(), EAGER)),
    ]


def cuda_candidates(
    dtype: torch.dtype, capability: tuple[int, int], kernels: Kernels, *, float8: bool
) -> list[Candidate]:
    """The fastest first. kernels: that have been found to be right here. float8: whether the cache
    is in 8 bits."""
    is_narrow, is_ampere = dtype.itemsize == 2, capability >= _AMPERE
    # In torch from 2.10 on.
    varlen = is_narrow and is_ampere and _no("torch.nn.attention.varlen") is None
    old = f"the device has compute capability {capability[0]}.{capability[1]}, not 8.0"
    wide = f"it has no kernels for {str(dtype).removeprefix('torch.')}"
    needs_ampere = None if is_ampere else old
    flash_lacks = (
        (_NO_FLOAT8 if float8 else None)
        or needs_ampere
        or (None if is_narrow else wide)
        or _no("flash_attn")
    )

    def make_triton() -> Made:
        from .triton import TritonBackend  # imports the package

        return TritonBackend(varlen=varlen), kernels

    return [
        Candidate("flash_attn", lambda: (FlashAttnBackend(), kernels), flash_lacks),
        Candidate("triton", make_triton, needs_ampere or _no("triton")),
        Candidate("sdpa", lambda: (SdpaBackend(varlen=varlen), kernels)),
        # Where torch's varlen attention is wrong.
        Candidate("sdpa", lambda: (SdpaBackend(), kernels)),
    ]


def _no(package: str) -> str | None:
    found = importlib.util.find_spec(package) is not None
    return None if found else f"the package {package} is not installed"


def choose(
    candidates: list[Candidate],
    wanted: AttentionName,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    float8: bool = False,
) -> Made:
    """The first that can run and passes the self-test; says which, and why no other, in one line.
    float8: whether the cache is in 8 bits.

    Raises CheckpointError where what is wanted, if not "auto", can not or does not.
    """
    passed_over: list[str] = []
    for candidate in candidates:
        if wanted not in ("auto", candidate.name):
            continue
        why = candidate.lacking
        if why is None:
            made, why = _tried(candidate, config, dtype, device, float8)
            if made is not None:
                logger.info("attention: %s", "; ".join([f"{candidate.name}, {why}", *passed_over]))
                return made
        passed_over.append(f"not {candidate.name}: {why}")
    reasons = "; ".join(passed_over) or f"there is no such backend on {device.type}"
    raise CheckpointError(f"attention is {wanted!r}, which cannot be used here: {reasons}")


def _tried(
    candidate: Candidate,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    float8: bool,
) -> tuple[Made | None, str]:
    """The backend, if it is right, and what was found."""
    tolerance = TOLERANCES[dtype]
    try:
        made = candidate.make()
        with torch.inference_mode():
            error = largest_error(*made, config, dtype, device, float8=float8)
    except Exception as problem:  # a kernel, its compiler or its package can raise anything
        logger.debug("attention %s failed", candidate.name, exc_info=True)
        return None, f"it raised {_first_line(problem)}"
    if not error <= tolerance:  # nor where it is NaN
        return None, f"its results are off by {error:.2g}, allowed is {tolerance:g}"
    return made, f"off by {error:.1g} beside float32, allowed is {tolerance:g}"


def cuda_kernels(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Kernels:
    """Our own Triton kernels, where they are there and right; else plain torch."""
    why = _no("triton")
    if why is None:
        try:
            from ..triton_kernels import triton_kernels  # imports the package
            from ..triton_kernels.launcher import use_prebuilt

            use_prebuilt()
            kernels: Kernels = triton_kernels()
            with torch.inference_mode():
                error = pieces_error(kernels, config, dtype, device)
            if error <= TOLERANCES[dtype]:
                return kernels
            why = f"their results are off by {error:.2g}"
        except Exception as problem:  # the compiler behind them can raise anything
            logger.debug("the Triton kernels failed", exc_info=True)
            why = f"they raised {_first_line(problem)}"
    logger.warning("no Triton kernels: %s", why)
    return EAGER


def _first_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {str(problem).partition(chr(10))[0][:200]}"
