"""Puts an engine together: weights, attention, memory, graphs, warm-up."""

import logging

import torch

from model_config import ModelConfig, from_checkpoint

from .backend import choose_backend, device_and_dtype, name_of
from .block_manager import BlockManager
from .cuda_graph import CudaGraphs
from .device_memory import DeviceMemory
from .encoder_progress import CROP_PARTS
from .engine import Engine
from .engine_config import EngineConfig, EngineDescription, EngineLimits
from .engine_memory import estimated_plan, measured_plan, memory_limit
from .errors import CheckpointError
from .grammar_queue import GrammarQueue
from .host_memory import host_memory, process_bytes
from .kv_cache import KVCache
from .memory_plan import check_weights
from .model_runner import ModelRunner
from .models.native_kernels import fits_heads
from .models.packed_linear import pack_linears
from .scheduler import Scheduler
from .sequence import SamplingParams, Sequence
from .weight_files import stored_tensors
from .weights import Progress, load_model

logger = logging.getLogger(__name__)

# Prompt tokens and crops that a prompt brings to a step that others wait for.
SHARES = {"cpu": (24, 1 / CROP_PARTS), "cuda": (512, 17.0)}


def build_engine(config: EngineConfig, progress: Progress) -> Engine:
    """Load the weights and put everything together. Raises CheckpointError and
    model_config.ModelConfigError for what is wrong on disk or does not fit in memory."""
    model_config = from_checkpoint(config.checkpoint)
    config.check_context(model_config.text.max_position_embeddings)
    num_elements = sum(t.num_elements for t in stored_tensors(config.checkpoint).values())
    if config.data_parallel > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // config.data_parallel))
    device, dtype = device_and_dtype(config)
    limit, where = memory_limit(config, device)
    check_weights(num_elements, name_of(dtype), dtype.itemsize, limit, where)
    backend = choose_backend(config, model_config, device, dtype, num_elements * dtype.itemsize)
    attention = backend.attention
    bytes_before = process_bytes()
    model = load_model(config.checkpoint, model_config, device, dtype, progress)
    if device.type == "cpu":
        native = backend.native
        pack_linears(model, native, model.model.layers if config.quantization == "int8" else None)
        if native is not None and fits_heads(model_config.vision.head_dim):
            model.tower.attend_by(native.attend_all)

    def make_runner(num_blocks: int, features: int) -> ModelRunner:
        return ModelRunner(
            model,
            KVCache(model_config, num_blocks, attention.block_size, backend.cache_dtype, device),
            attention,
            feature_cache_bytes=features,
            max_num_seqs=config.max_num_seqs,
            kernels=backend.kernels,
        )

    captures = device.type == "cuda" and attention.can_capture
    if device.type == "cuda":
        plan = measured_plan(config, model_config, backend, make_runner, captures=captures)
    else:
        weights = max(0, process_bytes() - bytes_before)
        limit = min(limit, weights + host_memory().available)  # others may have taken some since
        plan = estimated_plan(config, model_config, backend, weights, limit, where)
    for line in plan.lines:
        logger.info("%s", line)
    runner = make_runner(plan.num_blocks, plan.features)
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
    engine.description = EngineDescription(
        "cpu" if device.type == "cpu" else torch.cuda.get_device_name(),
        str(dtype).removeprefix("torch."),
        attention.name,
    )
    if device.type == "cuda":
        engine.device_memory = DeviceMemory()
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
    tokens, crops = SHARES[runner.device.type]
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
