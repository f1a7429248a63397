"""Whether the largest step stays within what was planned for it beside weights and cache."""

from collections.abc import Iterator

import torch

from scoring.engine_config import EngineConfig

from ..systems import run_to_end
from .lab import Lab, synchronize
from .prompts import noise, picture_sequence, text_sequence
from .table import Row, skipped

CHECK = "memory"
_SUBJECT = "the largest step"
_MAX_CROPS = 16


def check_memory(lab: Lab) -> Iterator[Row]:
    if lab.device != "cuda":
        yield skipped(CHECK, _SUBJECT, "torch counts what it allocates on a GPU only")
        return
    settings = EngineConfig(lab.model)
    engine = lab.build(lab.model, lab.half)
    plan = engine.memory_plan
    assert plan is not None
    planned = max(plan.step.prompts, plan.step.pictures)
    synchronize(lab.torch_device)
    idle = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    vision = lab.model_config.vision
    # Two pictures' towers in one step, a full batch of prompt tokens in the next ones.
    pictures = [picture_sequence(noise(vision, seed, _MAX_CROPS), seed, 4) for seed in range(2)]
    texts = [text_sequence(seed, settings.max_num_batched_tokens, 4) for seed in range(4)]
    run_to_end(engine, [*pictures, *texts])
    synchronize(lab.torch_device)
    peak = torch.cuda.max_memory_allocated() - idle
    total = torch.cuda.get_device_properties(lab.torch_device).total_memory
    # The pictures' features stay, in a cache of their own bound.
    features = engine.stats().feature_cache_bytes
    kept = plan.weights + plan.cache + plan.step.graphs
    yield Row(
        CHECK,
        _SUBJECT,
        "weights, cache, graphs",
        idle / 2**30,
        "GiB",
        note=f"planned {kept / 2**30:.2f}",
    )
    yield Row(
        CHECK, _SUBJECT, "activations", (peak - features) / 2**30, "GiB", at_most=planned / 2**30
    )
    reserved = torch.cuda.max_memory_reserved() / total * 100
    yield Row(CHECK, _SUBJECT, "reserved, of the card", reserved, "%", at_most=95)
