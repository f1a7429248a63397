"""Puts an engine together: weights, attention, memory, graphs, warm-up."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace

import torch

from model_config import ModelConfig, from_checkpoint

from .block_manager import BlockManager
from .cuda_graph import CudaGraphs
from .encoder_progress import CROP_PARTS
from .engine import Engine
from .engine_config import AttentionName, EngineConfig, EngineLimits, KernelsName
from .errors import CheckpointError
from .grammar_queue import GrammarQueue
from .kv_cache import KVCache, available_bytes, bytes_per_token, cpu_cache_bytes, process_bytes
from .memory_plan import LargestStep, MemoryPlan, StepMemory, estimate_step, plan_memory
from .memory_probe import CudaMeter, cuda_limit, measure_step
from .model_runner import ModelRunner
from .models.attention.choose import choose, cpu_candidates, cuda_candidates, cuda_kernels
from .models.attention.interface import AttentionBackend
from .models.kernels import Kernels
from .models.native_kernels import NativeKernels, fits_heads, load_native
from .models.packed_linear import pack_linears
from .models.phi3_vision import Phi3VisionForCausalLM
from .scheduler import Scheduler
from .sequence import SamplingParams, Sequence
from .weights import Progress, load_model

logger = logging.getLogger(__name__)

# Prompt tokens and crops that a prompt brings to a step that others wait for.
_SHARES = {"cpu": (24, 1 / CROP_PARTS), "cuda": (512, 17.0)}
_LARGE_MODEL_BYTES = 256 << 20
_ATTENTION_OF: dict[KernelsName, AttentionName] = {"native": "cpu", "compiled": "compiled"}


def build_engine(config: EngineConfig, progress: Progress) -> Engine:
    """Load the weights and put everything together. Raises CheckpointError and
    model_config.ModelConfigError for what is wrong on disk or does not fit in memory."""
    model_config = from_checkpoint(config.checkpoint)
    config.check_context(model_config.text.max_position_embeddings)
    device = _device(config)
    if config.data_parallel > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // config.data_parallel))
    dtype = _dtype(config.dtype, device)
    if dtype is torch.float32:  # else cuDNN would round the tower's first layer to 11 bits
        torch.backends.cudnn.allow_tf32 = False
    bytes_before = process_bytes()
    model = load_model(config.checkpoint, model_config, device, dtype, progress)
    native = _native(config, model_config, device, dtype)
    if device.type == "cpu":
        pack_linears(model, native, model.model.layers if config.quantization == "int8" else None)
        if native is not None and fits_heads(model_config.vision.head_dim):
            model.tower.use_native_attention(native)
    attention, kernels = _attention(config, model_config, model, native, dtype)
    logger.info("%s, %s, %s kernels", device, str(dtype).removeprefix("torch."), kernels.name)
    cache_dtype = torch.float8_e4m3fn if config.kv_cache_dtype == "fp8" else dtype

    def make_runner(num_blocks: int) -> ModelRunner:
        return ModelRunner(
            model,
            KVCache(model_config, num_blocks, attention.block_size, cache_dtype, device),
            attention,
            feature_cache_bytes=config.feature_cache_bytes,
            max_num_seqs=config.max_num_seqs,
            kernels=kernels,
        )

    captures = device.type == "cuda" and attention.can_capture
    token_bytes = bytes_per_token(model_config, cache_dtype)
    if device.type == "cuda":
        plan = _measured_plan(config, model_config, make_runner, token_bytes, captures=captures)
    else:
        weights = process_bytes() - bytes_before
        step = estimate_step(
            model_config, config.max_num_batched_tokens, config.max_crops, dtype.itemsize
        )
        plan = _estimated_plan(
            config, model_config, weights, step, token_bytes, attention.block_size
        )
    logger.info("%s", plan)
    runner = make_runner(plan.num_blocks)
    if captures:
        runner.capture(CudaGraphs().capture, plan.max_model_len)
    engine = assemble(
        config,
        model_config,
        runner,
        plan.num_blocks,
        plan.block_size,
        plan.max_model_len,
        overlap=device.type == "cuda",
    )
    engine.memory_plan = plan
    _warm_up(engine)
    return engine


def assemble(
    config: EngineConfig,
    model_config: ModelConfig,
    runner: ModelRunner,
    num_blocks: int,
    block_size: int,
    max_model_len: int,
    *,
    overlap: bool = False,
) -> Engine:
    """An engine around a runner and a cache of so many blocks. overlap: see Engine."""
    tokens, crops = _SHARES[runner.device.type]
    scheduler = Scheduler(
        BlockManager(num_blocks, block_size, prefix_cache=config.prefix_cache),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=max_model_len,
        short_rope_len=model_config.text.rope_scaling.original_max_position_embeddings,
        crop_size=model_config.vision.crop_size,
        max_crops=config.max_crops,
        prompt_share=config.prompt_share or tokens,
        crops_share=config.crops_share or crops,
    )
    limits = EngineLimits(max_model_len, runner.vocab_size)
    grammars = GrammarQueue(config.checkpoint / "tokenizer.json", limits.vocab_size)
    return Engine(runner, scheduler, limits, grammars, overlap=overlap)


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


def _is_worth_it(model: Phi3VisionForCausalLM) -> bool:
    """Whether torch.compile can run, and saves more than it takes."""
    large = sum(parameter.nbytes for parameter in model.parameters()) >= _LARGE_MODEL_BYTES
    return large and shutil.which("g++") is not None


def _warm_up(engine: Engine) -> None:
    """Run short sequences, alone and together, so that whatever is compiled or allocated at first
    use is there before the first caller. Raises CheckpointError where the model fails even on
    them."""
    for rows in (1, 2, 3):
        for row in range(rows):
            prompt = [1] * min(20 + row, engine.limits.max_model_len // 2)
            engine.add(Sequence(f"warm-up {row}", prompt, SamplingParams(max_tokens=3)))
        while engine.has_work:
            for output in engine.step():
                if output.error is not None:
                    raise CheckpointError(f"the model cannot be used: {output.error}")
    engine.reset_prefix_cache()


def _attention(
    config: EngineConfig,
    model_config: ModelConfig,
    model: Phi3VisionForCausalLM,
    native: NativeKernels | None,
    dtype: torch.dtype,
) -> tuple[AttentionBackend, Kernels]:
    """Raises CheckpointError where what is asked for cannot be had."""
    device = model.model.embed_tokens.weight.device
    float8 = config.kv_cache_dtype == "fp8"
    if device.type == "cuda":
        plain = cuda_kernels(model_config, dtype, device)
        capability = torch.cuda.get_device_capability()
        candidates = cuda_candidates(dtype, capability, plain, float8=float8)
    else:
        compiles = "compiled" in (config.kernels, config.attention)
        compiles |= config.kernels == "auto" and _is_worth_it(model)
        candidates = cpu_candidates(native, compiles=compiles, float8=float8)
    wanted = config.attention
    if wanted == "auto":  # kernels that were asked for are not fallen back from
        wanted = _ATTENTION_OF.get(config.kernels, "auto")
    return choose(candidates, wanted, model_config, dtype, device, float8=float8)


def _measured_plan(
    config: EngineConfig,
    model_config: ModelConfig,
    make_runner: Callable[[int], ModelRunner],
    token_bytes: int,
    *,
    captures: bool,
) -> MemoryPlan:
    """Of the current CUDA device, which has the weights by now."""
    limit, weights = cuda_limit(), torch.cuda.memory_allocated()
    context = config.max_model_len or model_config.text.max_position_embeddings
    # No sequence can be longer than what is left would hold.
    longest = min(context, max((limit - weights) // token_bytes, 1))
    probe = make_runner(1)
    make_graph = CudaGraphs().capture if captures else None
    largest = LargestStep(
        config.max_num_batched_tokens, config.max_num_seqs, config.max_crops, longest
    )
    step = measure_step(probe, largest, model_config.vision, CudaMeter(), make_graph)
    block_size = probe.block_size
    del probe
    torch.cuda.empty_cache()
    return _plan(config, context, limit, weights, step, token_bytes, block_size)


def _estimated_plan(
    config: EngineConfig,
    model_config: ModelConfig,
    weights: int,
    step: StepMemory,
    token_bytes: int,
    block_size: int,
) -> MemoryPlan:
    """Of a CPU, whose memory others use, too: the cache gets a modest part."""
    context = config.max_model_len or model_config.text.max_position_embeddings
    limit = weights + available_bytes()
    cache = config.kv_cache_bytes or cpu_cache_bytes(token_bytes, config.data_parallel)
    config = replace(config, kv_cache_bytes=cache)
    return _plan(config, context, limit, weights, step, token_bytes, block_size)


def _plan(
    config: EngineConfig,
    context: int,
    limit: int,
    weights: int,
    step: StepMemory,
    token_bytes: int,
    block_size: int,
) -> MemoryPlan:
    return plan_memory(
        limit=limit,
        weights=weights,
        step=step,
        features=config.feature_cache_bytes,
        block_bytes=block_size * token_bytes,
        block_size=block_size,
        max_num_seqs=config.max_num_seqs,
        context=context,
        max_model_len=config.max_model_len,
        cache=config.kv_cache_bytes,
    )


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
