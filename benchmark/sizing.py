"""What cards could do at most with Phi-3-vision: computed from data sheets, nothing is measured.

    python -m benchmark.sizing        # writes the table into docs/scale.md; a test compares

Memory by the plan that every start makes (scoring/memory_plan.py), with a step's work as estimated
where nothing can be measured, and the same part of the card left to the driver. A decode step
cannot beat reading the weights and its rows' keys and values once, at the card's bandwidth; a
prompt cannot beat its matrix products, at the card's dense half-precision rate. What a card reaches
of that, `make gpu-check` and `phi3v bench` measure.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from model_config import ModelConfig, RopeScaling, TextConfig, VisionConfig
from scoring.engine_config import EngineConfig
from scoring.image_processor import num_image_tokens
from scoring.kv_cache import bytes_per_token
from scoring.memory_plan import MemoryPlan, estimate_step, plan_memory
from scoring.memory_probe import GPU_FRACTION

from .gpu_check.cost import picture_flops, prompt_flops, weights_read

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
_REGION = re.compile(r"(<!-- sizing:.*?-->\n).*?(<!-- /sizing -->)", re.DOTALL)

# Phi-3-vision-128k-instruct's sizes, by its config.json, and its parameters.
_TEXT = TextConfig(
    vocab_size=32064,
    hidden_size=3072,
    intermediate_size=8192,
    num_layers=32,
    num_heads=32,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    max_position_embeddings=131072,
    rope_scaling=RopeScaling((), (), 4096, 1.0),
)
_VISION = VisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_layers=24,
    num_heads=16,
    crop_size=336,
    patch_size=14,
    layer_norm_eps=1e-5,
    num_crops=16,
    image_mean=(),
    image_std=(),
)
MODEL = ModelConfig("microsoft/Phi-3-vision-128k-instruct", _TEXT, _VISION)
NUM_PARAMETERS = 4_146_621_440
HALF = torch.bfloat16
_BLOCK = 16
_MAX_NUM_SEQS = 1 << 16  # memory alone shall be the limit
_CHAT = 4096
_GIB = 1 << 30
_PICTURE_CROPS = 16


@dataclass(frozen=True)
class Card:
    """mib: of memory, as nvidia-smi says; it is less than on the box. bandwidth: GB/s. half: dense
    TFLOP/s of matrix products in half precision, without sparsity. By its maker's data sheet."""

    name: str
    mib: int
    bandwidth: float
    half: float


CARDS = (
    Card("T4, 16 GB", 15360, 320, 65),
    Card("L4, 24 GB", 23034, 300, 121),
    Card("A10, 24 GB", 23028, 600, 125),
    Card("L40S, 48 GB", 46068, 864, 362),
    Card("A100, 80 GB", 81920, 2039, 312),
    Card("H100, 80 GB", 81559, 3350, 989),
    Card("H200, 141 GB", 143771, 4800, 989),
)


@dataclass(frozen=True)
class Limits:
    """Of one card. plan, float8_plan: its memory, with keys and values in half precision and in 8
    bits. alone, full: output tokens per second of one short chat, and of as many chats of 4,096
    tokens as the cache holds. prompt: tokens per second of a prompt of 4,096. picture: seconds of a
    prompt that is one picture of 16 crops."""

    plan: MemoryPlan
    float8_plan: MemoryPlan
    alone: float
    full: float
    prompt: float
    picture: float


def limits(card: Card) -> Limits:
    plan = _plan(card, HALF)
    rows = plan.num_tokens // _CHAT
    weights = weights_read(_TEXT) * HALF.itemsize
    token = bytes_per_token(MODEL, HALF)
    bandwidth, flops = card.bandwidth * 1e9, card.half * 1e12

    def tokens_per_s(num_rows: int, context: int) -> float:
        return num_rows * bandwidth / (weights + num_rows * context * token)

    slots = num_image_tokens(4, 4, _VISION)
    crops = _PICTURE_CROPS + 1
    work = picture_flops(MODEL, crops, slots) + prompt_flops(_TEXT, [slots])
    return Limits(
        plan=plan,
        float8_plan=_plan(card, torch.float8_e4m3fn),
        alone=tokens_per_s(1, 0),
        full=tokens_per_s(rows, _CHAT),
        prompt=_CHAT / (prompt_flops(_TEXT, [_CHAT]) / flops),
        picture=work / flops,
    )


def _plan(card: Card, cache_dtype: torch.dtype) -> MemoryPlan:
    settings = EngineConfig(Path())
    return plan_memory(
        limit=int(GPU_FRACTION * (card.mib << 20)),
        where=card.name,
        weights=NUM_PARAMETERS * HALF.itemsize,
        step=estimate_step(
            MODEL, settings.max_num_batched_tokens, settings.max_crops, HALF.itemsize
        ),
        features=settings.feature_cache_bytes,
        block_bytes=_BLOCK * bytes_per_token(MODEL, cache_dtype),
        block_size=_BLOCK,
        max_num_seqs=_MAX_NUM_SEQS,
        context=_TEXT.max_position_embeddings,
        max_model_len=None,
        cache=None,
    )


def table() -> str:
    lines = [
        "| card | weights, GiB | work, GiB | cache, GiB | tokens in it; with `fp8` "
        "| chats of 4,096; with `fp8` | tokens/s, 1 chat | all chats "
        "| prompt tokens/s | a picture, ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for card in CARDS:
        found = limits(card)
        plan, narrow = found.plan, found.float8_plan
        cells = (
            card.name,
            f"{plan.weights / _GIB:.1f}",
            f"{(plan.step.total + plan.features) / _GIB:.1f}",
            f"{plan.cache / _GIB:.1f}",
            f"{plan.num_tokens:,}; {narrow.num_tokens:,}",
            f"{plan.num_tokens // _CHAT}; {narrow.num_tokens // _CHAT}",
            f"{found.alone:,.0f}",
            f"{found.full:,.0f}",
            f"{found.prompt:,.0f}",
            f"{found.picture * 1e3:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_current_table(text: str) -> str:
    """The page's text with the table as it should be."""
    return _REGION.sub(lambda match: match[1] + table() + match[2], text)


if __name__ == "__main__":
    PAGE.write_text(with_current_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
