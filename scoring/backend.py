"""What a model runs on: device, dtype, kernels and attention, tried out before weights load."""

import logging
import shutil
from dataclasses import dataclass

import torch

from model_config import ModelConfig

from .engine_config import AttentionName, EngineConfig, KernelsName
from .errors import CheckpointError
from .models.attention.choose import choose, cpu_candidates, cuda_candidates, cuda_kernels
from .models.attention.interface import AttentionBackend
from .models.kernels import Kernels
from .models.native_kernels import NativeKernels, load_native

logger = logging.getLogger(__name__)

_LARGE_MODEL_BYTES = 256 << 20
_ATTENTION_OF: dict[KernelsName, AttentionName] = {"native": "cpu", "compiled": "compiled"}


@dataclass(frozen=True)
class Backend:
    """native: the CPU's own kernels, if there are any. cache_dtype: of keys and values."""

    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    native: NativeKernels | None
    attention: AttentionBackend
    kernels: Kernels


def choose_backend(
    config: EngineConfig,
    model_config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    weights_bytes: int,
) -> Backend:
    """Try out what there is; log lines say what was found, and why nothing faster. Raises
    CheckpointError where what is asked for cannot be had."""
    if dtype is torch.float32:  # else cuDNN would round the tower's first layer to 11 bits
        torch.backends.cudnn.allow_tf32 = False
    native = _native(config, model_config, device, dtype)
    attention, kernels = _attention(config, model_config, device, dtype, native, weights_bytes)
    logger.info("%s, %s, %s kernels", device, name_of(dtype), kernels.name)
    cache_dtype = torch.float8_e4m3fn if config.kv_cache_dtype == "fp8" else dtype
    return Backend(device, dtype, cache_dtype, native, attention, kernels)


def device_and_dtype(config: EngineConfig) -> tuple[torch.device, torch.dtype]:
    """Raises CheckpointError where there are too few devices."""
    device = _device(config)
    return device, _dtype(config.dtype, device)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _native(
    config: EngineConfig, model_config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> NativeKernels | None:
    """Raises CheckpointError where native kernels are needed and cannot be had."""
    native, why = None, f"they are for a CPU, not {device.type}"
    if device.type == "cpu":
        if config.kernels not in ("auto", "native"):
            why = f"kernels are {config.kernels!r}"
        else:
            native, why = load_native(dtype, model_config.text)
    if native is None:
        logger.info("no native kernels: %s", why)
        needed = "native" if config.kernels == "native" else config.quantization
        if needed != "none":
            raise CheckpointError(
                f"{needed!r} needs the native kernels, which cannot be used: {why}"
            )
    return native


def _is_worth_it(weights_bytes: int) -> bool:
    """Whether torch.compile can run, and saves more than it takes."""
    return weights_bytes >= _LARGE_MODEL_BYTES and shutil.which("g++") is not None


def _attention(
    config: EngineConfig,
    model_config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    native: NativeKernels | None,
    weights_bytes: int,
) -> tuple[AttentionBackend, Kernels]:
    """Raises CheckpointError where what is asked for cannot be had."""
    float8 = config.kv_cache_dtype == "fp8"
    if device.type == "cuda":
        plain = cuda_kernels(model_config, dtype, device)
        capability = torch.cuda.get_device_capability()
        candidates = cuda_candidates(dtype, capability, plain, float8=float8)
    else:
        compiles = "compiled" in (config.kernels, config.attention)
        compiles |= config.kernels == "auto" and _is_worth_it(weights_bytes)
        candidates = cpu_candidates(native, compiles=compiles, float8=float8)
    wanted = config.attention
    if wanted == "auto":  # kernels that were asked for are not fallen back from
        wanted = _ATTENTION_OF.get(config.kernels, "auto")
    return choose(candidates, wanted, model_config, dtype, device, float8=float8)


def _device(config: EngineConfig) -> torch.device:
    """Of several engines' devices this one's own, which "cuda" means from here on to everything in
    this thread. Raises CheckpointError where there are too few."""
    name, num_devices = config.device, torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if num_devices else "cpu"
    if name == "cuda" and config.data_parallel > num_devices:
        raise CheckpointError(
            f"device is 'cuda' and data_parallel is {config.data_parallel}, but torch sees "
            f"{num_devices} CUDA devices"
        )
    if name == "cuda" and config.data_parallel > 1:
        torch.cuda.set_device(config.data_parallel_rank)
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """auto: on CUDA bfloat16 where it is native, else float16; float32 on a CPU."""
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
