"""What the engine is built from. Imports no torch, so that the API process can fill it in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import CheckpointError

DeviceName = Literal["auto", "cuda", "cpu"]
KernelsName = Literal["auto", "native", "compiled", "eager"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
AttentionName = Literal["auto", "flash_attn", "triton", "sdpa", "cpu", "compiled"]
KVCacheDtypeName = Literal["auto", "fp8"]
QuantizationName = Literal["none", "int8"]


@dataclass(frozen=True)
class EngineConfig:
    """max_model_len: prompt and answer together, in tokens; None for the most that the model and
    the memory allow. kv_cache_bytes: None to measure. max_num_seqs: rows of a step at most.
    max_num_batched_tokens: tokens of a step at most. feature_cache_bytes: for picture features.
    kernels: how a CPU runs the pieces of a step. native: our own code for AVX-512, built in
    seconds; compiled: torch.compile, half a minute at the first start; eager: neither, and no C++
    compiler needed. auto: native where it can be, else compiled for a model large enough to gain
    from it, else eager.
    attention: the backend, if not the fastest that is right on the device. compiled and cpu come
    with the kernels of that name, which must be allowed.
    kv_cache_dtype: auto: the model's. fp8: e4m3 with a scale for each token and head, for the
    backends triton and sdpa.
    quantization: of the decoder layers. int8: 8-bit weights, and inputs as they come; needs the
    native kernels.
    max_crops: of pictures, encoded in a step. The shares, tokens and crops that each prompt, up to
    four, brings to a step in which others decode, keep the others' tokens coming; None: 24 tokens
    and a sixth of a crop on a CPU, 512 tokens and 17 crops on a GPU.
    data_parallel: how many engines this machine runs, this one included. That of rank r, 0 …
    data_parallel - 1, has CUDA device r to itself; on a CPU each has its part of the cores and of
    the memory that is measured.
    """

    checkpoint: Path
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    max_model_len: int | None = None
    kv_cache_bytes: int | None = None
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 2048
    feature_cache_bytes: int = 512 << 20
    prefix_cache: bool = True
    kernels: KernelsName = "auto"
    attention: AttentionName = "auto"
    kv_cache_dtype: KVCacheDtypeName = "auto"
    quantization: QuantizationName = "none"
    max_crops: int = 34
    prompt_share: int | None = None
    crops_share: float | None = None
    data_parallel: int = 1
    data_parallel_rank: int = 0

    def check_context(self, context: int) -> None:
        """Raise CheckpointError where max_model_len is beyond what the model was made for."""
        if self.max_model_len is not None and self.max_model_len > context:
            raise CheckpointError(
                f"max_model_len is {self.max_model_len}; the model's context is {context}"
            )


@dataclass(frozen=True)
class EngineLimits:
    """What a running engine can take: learnt when it is built. vocab_size: the logits' width."""

    max_model_len: int
    vocab_size: int


@dataclass(frozen=True)
class EngineStats:
    """The engine's state between two steps. Blocks: free + cached + in use == total; leaked ones,
    counted when nobody is there, are a bug. device_memory: of a GPU, in bytes, used by anybody."""

    num_running: int
    num_waiting: int
    num_preemptions: int
    num_blocks: int
    num_blocks_free: int
    num_blocks_cached: int
    num_pictures_encoded: int
    feature_cache_bytes: int
    num_blocks_leaked: int = 0
    device_memory_used: int = 0
    device_memory_total: int = 0


@dataclass(frozen=True)
class EngineDescription:
    """What a running engine runs on: names, for logs and metrics. device: "cpu", or the GPU's."""

    device: str
    dtype: str
    attention: str
