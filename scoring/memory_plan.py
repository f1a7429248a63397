"""Where a device's memory goes: what is measured, and what is left for keys and values."""

from dataclasses import dataclass

from model_config import ModelConfig

from .errors import CheckpointError

_GIB = 1 << 30


@dataclass(frozen=True)
class LargestStep:
    """What a step may have at most. context: the longest sequence that there could be."""

    max_num_batched_tokens: int
    max_num_seqs: int
    max_crops: int
    context: int


@dataclass(frozen=True)
class StepMemory:
    """What a step takes beside weights and cache, in bytes. prompts, pictures: at their peaks, of
    the most prompt tokens and of the most crops that a step may have; one comes after the other.
    graphs: what captured steps keep."""

    prompts: int
    pictures: int
    graphs: int = 0

    @property
    def total(self) -> int:
        return max(self.prompts, self.pictures) + self.graphs


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes. limit: what may be used in all; where: what sets it, for a reader. features: the cache
    of pictures. max_model_len: the longest sequence that the blocks hold, or a smaller one that was
    asked for. max_num_seqs: that run at once."""

    limit: int
    where: str
    weights: int
    step: StepMemory
    features: int
    cache: int
    num_blocks: int
    block_size: int
    max_model_len: int
    max_num_seqs: int

    @property
    def need(self) -> int:
        return self.weights + self.cache + self.step.total + self.features

    @property
    def num_tokens(self) -> int:
        """That the cache holds, of all sequences together."""
        return self.num_blocks * self.block_size

    @property
    def lines(self) -> tuple[str, str, str, str]:
        """The plan as a sum."""
        step = self.step
        return (
            f"memory   {gib(self.weights):>6} GiB for weights",
            f"memory + {gib(self.cache):>6} GiB for keys and values: {self.num_tokens:,} tokens, "
            f"up to {self.max_model_len:,} of one request, {self.max_num_seqs} requests at once",
            f"memory + {gib(step.total + self.features):>6} GiB for work: prompts "
            f"{gib(step.prompts)} or pictures {gib(step.pictures)}, graphs {gib(step.graphs)}, "
            f"picture features {gib(self.features)}",
            f"memory = {gib(self.need):>6} GiB of {gib(self.limit)} {self.where}",
        )


def estimate_step(
    config: ModelConfig, max_num_batched_tokens: int, max_crops: int, itemsize: int
) -> StepMemory:
    """Roughly, where nothing can be measured: the widest tensors of a layer for a full batch, and
    of the tower for all its crops, in the model's dtype and in float32."""
    text, vision = config.text, config.vision
    layer = 3 * text.hidden_size + 2 * text.intermediate_size
    tower = 4 * vision.hidden_size + 2 * vision.intermediate_size
    patches = max_crops * (vision.tokens_per_crop * 4 + 1)
    return StepMemory(
        prompts=max_num_batched_tokens * layer * (itemsize + 4),
        pictures=patches * tower * (itemsize + 4),
    )


def plan_memory(
    *,
    limit: int,
    where: str,
    weights: int,
    step: StepMemory,
    features: int,
    block_bytes: int,
    block_size: int,
    max_num_seqs: int,
    context: int,
    max_model_len: int | None,
    cache: int | None,
    max_cache: int | None = None,
) -> MemoryPlan:
    """Give the cache what is left, up to max_cache, or cache bytes if that is given; no more than
    max_num_seqs sequences of context tokens can use. The cache's spare block is one of what is
    left.

    max_model_len: None for as long as fits, up to context. Raises CheckpointError, with numbers,
    where not even that, or nothing, fits, and where a given cache does not.
    """
    available = cache
    if available is None:
        left = limit - weights - step.total - features
        available = left if max_cache is None else min(left, max_cache)
    wanted = max_num_seqs * -(-context // block_size)
    num_blocks = min(available // block_bytes - (cache is None), wanted)
    room = num_blocks * block_size
    if room < max(max_model_len or 1, 2):
        source = (
            f"kv_cache is {gib(available)} GiB"
            if cache is not None
            else f"of {gib(limit)} GiB {where}, weights take {gib(weights)}, a step "
            f"{gib(step.total)} and picture features {gib(features)}"
        )
        raise CheckpointError(
            f"{source}: the key-value cache has room for {max(room, 0)} tokens; "
            f"max_model_len is {max_model_len or 'not set'}"
        )
    plan = MemoryPlan(
        limit=limit,
        where=where,
        weights=weights,
        step=step,
        features=features,
        cache=(num_blocks + 1) * block_bytes,
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=max_model_len or min(context, room),
        max_num_seqs=max_num_seqs,
    )
    if plan.need > limit:
        raise CheckpointError(
            f"weights take {gib(weights)} GiB, keys and values {gib(plan.cache)}, a step "
            f"{gib(step.total)} and picture features {gib(features)}: {gib(plan.need)} of the "
            f"{gib(limit)} GiB {where}; kv_cache is too large"
        )
    return plan


def check_weights(num_elements: int, dtype: str, itemsize: int, limit: int, where: str) -> None:
    """Raise CheckpointError, with numbers, for weights that cannot fit."""
    need = num_elements * itemsize
    if need > limit:
        hint = f"; in bfloat16 they take {gib(num_elements * 2)}" if itemsize > 2 else ""
        raise CheckpointError(
            f"the weights take {gib(need)} GiB in {dtype}, and there are {gib(limit)} {where}{hint}"
        )


def gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f}"
