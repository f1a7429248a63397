"""What the checks are given: where to run, on which weights, and how much of everything."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from model_config import ModelConfig, from_checkpoint
from scoring.engine import Engine
from scoring.engine_builder import build_engine
from scoring.engine_config import DeviceName, DtypeName, EngineConfig

# How a CPU can attend, by EngineConfig.kernels; and a GPU, by EngineConfig.attention.
_CPU_KERNELS = ("native", "compiled", "eager")
_CUDA_ATTENTION = ("flash_attn", "triton", "sdpa")
_FLOAT8 = {"kv_cache_dtype": "fp8"}


@dataclass(frozen=True)
class Effort:
    """How much is run. rows, contexts: of decodes, every pair. steps: of decodes that are timed.
    prompts, prompt_len: how many at once, and their tokens. repeats: of each prompt that is timed.
    aborts, abort_crops: requests that leave, and the most crops of their pictures. cases: the
    golden ones, None for all. compiles: whether torch.compile may be waited for."""

    rows: tuple[int, ...] = (1, 8, 32, 128)
    contexts: tuple[int, ...] = (512, 2500)
    steps: int = 48
    prompts: tuple[int, ...] = (1, 4)
    prompt_len: int = 2048
    repeats: int = 5
    aborts: int = 1000
    abort_crops: int = 16
    cases: tuple[str, ...] | None = None
    compiles: bool = True


THOROUGH = Effort()
QUICK = Effort(
    rows=(1, 4),
    contexts=(48,),
    steps=6,
    prompts=(1, 2),
    prompt_len=96,
    repeats=2,
    aborts=60,
    abort_crops=1,
    cases=("text_user", "image_tall"),
    compiles=False,
)


@dataclass(frozen=True)
class Backend:
    """A way to attend that a device may have, and the configuration that asks for it. has_float8:
    whether its keys and values are in 8 bits."""

    name: str
    options: dict[str, Any]
    has_float8: bool = False


@dataclass(frozen=True)
class Lab:
    """model: the weights whose speed and memory are measured. tiny: those for parity. golden: what
    the published code computed with tiny, None where its files are not at hand."""

    device: DeviceName
    model: Path
    tiny: Path
    golden: Path | None
    effort: Effort

    @cached_property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    @cached_property
    def half(self) -> DtypeName:
        """bfloat16, but for cards that have it in software only."""
        if self.device == "cuda" and torch.cuda.get_device_capability() < (8, 0):
            return "float16"
        return "bfloat16"

    @cached_property
    def model_config(self) -> ModelConfig:
        return from_checkpoint(self.model)

    def backends(self) -> list[Backend]:
        if self.device == "cpu":
            kernels = [k for k in _CPU_KERNELS if k != "compiled" or self.effort.compiles]
            plain = [Backend(name, {"kernels": name}) for name in kernels]
            narrow = Backend("eager, fp8 cache", {"kernels": "eager", **_FLOAT8}, has_float8=True)
        else:
            plain = [Backend(name, {"attention": name}) for name in _CUDA_ATTENTION]
            options = {"attention": "triton", **_FLOAT8}
            narrow = Backend("triton, fp8 cache", options, has_float8=True)
        return [*plain, narrow]

    def build(self, checkpoint: Path, dtype: DtypeName, **options: Any) -> Engine:
        return build(self.device, checkpoint, dtype, **options)


def build(device: DeviceName, checkpoint: Path, dtype: DtypeName, **options: Any) -> Engine:
    """An engine with the settings' defaults but for these. Raises CheckpointError for a backend
    that the machine cannot have."""
    config = EngineConfig(checkpoint, device=device, dtype=dtype)
    return build_engine(replace(config, **options), lambda done, total: None)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
