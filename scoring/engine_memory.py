"""How much memory an engine may have on its device, and what it does with it."""

from collections.abc import Callable

import torch

from model_config import ModelConfig

from .backend import Backend
from .cuda_graph import CudaGraphs
from .engine_config import EngineConfig
from .host_memory import host_memory
from .kv_cache import bytes_per_token
from .memory_plan import LargestStep, MemoryPlan, StepMemory, estimate_step, plan_memory
from .memory_probe import CudaMeter, cuda_limit, measure_step
from .model_runner import ModelRunner

# On a CPU the caches share the memory with everything else. A small model needs no more than one
# longest context's worth, or 32 users' with 4,096 tokens each.
_CPU_FRACTION, _CPU_CAP_BYTES, _CPU_CAP_TOKENS = 0.4, 4 << 30, 1 << 17
_CPU_FEATURES_FRACTION = 0.25


def memory_limit(config: EngineConfig, device: torch.device) -> tuple[int, str]:
    """What one of config.data_parallel engines may have in all, before it has anything, and what
    sets that limit, for a reader."""
    if device.type == "cuda":
        return cuda_limit(), "on the GPU"
    memory = host_memory()
    share = "" if config.data_parallel == 1 else f", one of {config.data_parallel} shares"
    return memory.available // config.data_parallel, memory.where + share


def measured_plan(
    config: EngineConfig,
    model_config: ModelConfig,
    backend: Backend,
    make_runner: Callable[[int, int], ModelRunner],
    *,
    captures: bool,
) -> MemoryPlan:
    """Of the current CUDA device, which has the weights by now. make_runner: of so many blocks, and
    bytes for features."""
    limit, weights = cuda_limit(), torch.cuda.memory_allocated()
    # No sequence can be longer than what is left would hold.
    token_bytes = bytes_per_token(model_config, backend.cache_dtype)
    longest = min(_context(config, model_config), max((limit - weights) // token_bytes, 1))
    probe = make_runner(1, config.feature_cache_bytes)
    make_graph = CudaGraphs().capture if captures else None
    largest = LargestStep(
        config.max_num_batched_tokens, config.max_num_seqs, config.max_crops, longest
    )
    step = measure_step(probe, largest, model_config.vision, CudaMeter(), make_graph)
    del probe
    torch.cuda.empty_cache()
    features = config.feature_cache_bytes
    return _plan(config, model_config, backend, limit, "on the GPU", weights, step, features)


def estimated_plan(
    config: EngineConfig,
    model_config: ModelConfig,
    backend: Backend,
    weights: int,
    limit: int,
    where: str,
) -> MemoryPlan:
    """Where nothing can be measured. On a CPU, whose memory others use, too, the caches get modest
    parts of what is left, and never more than there is."""
    step = estimate_step(
        model_config, config.max_num_batched_tokens, config.max_crops, backend.dtype.itemsize
    )
    if backend.device.type == "cuda":
        features = config.feature_cache_bytes
        return _plan(config, model_config, backend, limit, where, weights, step, features)
    left = max(0, limit - weights - step.total)
    free = max(0, left - (config.kv_cache_bytes or 0))
    features = min(config.feature_cache_bytes, int(free * _CPU_FEATURES_FRACTION))
    token_bytes = bytes_per_token(model_config, backend.cache_dtype)
    max_cache = cpu_cache_bytes(left, token_bytes, config.data_parallel)
    max_cache += backend.attention.block_size * token_bytes  # the spare block
    return _plan(config, model_config, backend, limit, where, weights, step, features, max_cache)


def cpu_cache_bytes(left: int, token_bytes: int, data_parallel: int = 1) -> int:
    """What a CPU has to spare for the cache. left: of an engine's own share of the memory;
    data_parallel: engines that share it."""
    most = min(int(left * _CPU_FRACTION), _CPU_CAP_BYTES // data_parallel)
    return min(most, _CPU_CAP_TOKENS * token_bytes)


def _plan(
    config: EngineConfig,
    model_config: ModelConfig,
    backend: Backend,
    limit: int,
    where: str,
    weights: int,
    step: StepMemory,
    features: int,
    max_cache: int | None = None,
) -> MemoryPlan:
    block_size = backend.attention.block_size
    return plan_memory(
        limit=limit,
        where=where,
        weights=weights,
        step=step,
        features=features,
        block_bytes=block_size * bytes_per_token(model_config, backend.cache_dtype),
        block_size=block_size,
        max_num_seqs=config.max_num_seqs,
        context=_context(config, model_config),
        max_model_len=config.max_model_len,
        cache=config.kv_cache_bytes,
        max_cache=max_cache,
    )


def _context(config: EngineConfig, model_config: ModelConfig) -> int:
    return config.max_model_len or model_config.text.max_position_embeddings
