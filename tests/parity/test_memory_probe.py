"""The largest step, run to see what it takes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scoring.kv_cache import KVCache
from scoring.memory_plan import LargestStep, StepMemory, estimate_step
from scoring.memory_probe import measure_step
from scoring.model_runner import ModelRunner
from scoring.models.attention.sdpa import SdpaBackend

LARGEST = LargestStep(max_num_batched_tokens=256, max_num_seqs=8, max_crops=34, context=1000)


class Shapes(TorchDispatchMode):
    """The shapes of all that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.found |= {tuple(x.shape) for x in tree_leaves(result) if isinstance(x, Tensor)}
        return result


class ListingMeter:
    """Runs the work, and says what it is asked for: 1, 2, 3 …"""

    def __init__(self) -> None:
        self.shapes: list[set[tuple[int, ...]]] = []

    def peak(self, work: Callable[[], object]) -> int:
        with Shapes() as shapes:
            work()
        self.shapes.append(shapes.found)
        return len(self.shapes)

    kept = peak


@pytest.fixture
def runner(model, config) -> ModelRunner:
    cache = KVCache(config, 1, 16, torch.float32, torch.device("cpu"))
    return ModelRunner(
        model, cache, SdpaBackend(16), feature_cache_bytes=0, max_num_seqs=LARGEST.max_num_seqs
    )


def test_the_largest_step_has_all_tokens_all_crops_and_the_longest_context(runner, config):
    meter = ListingMeter()

    step = measure_step(runner, LARGEST, config.vision, meter, None)

    assert step == StepMemory(prompts=2, pictures=1, graphs=0)
    pictures, prompts = meter.shapes
    patches = 1 + (config.vision.crop_size // 14) ** 2
    assert (34, patches, config.vision.hidden_size) in pictures
    assert (256, config.text.hidden_size) in prompts
    # Logits of the rows that emit, and of no other token.
    widths = {shape for shape in prompts if shape[-1:] == (config.text.vocab_size,)}
    assert (8, config.text.vocab_size) in widths
    assert all(shape[0] <= 8 for shape in widths)
    assert any(1000 in shape for shape in prompts)  # the keys of the longest context


def test_a_small_context_is_a_small_step(runner, config):
    largest = LargestStep(max_num_batched_tokens=256, max_num_seqs=8, max_crops=1, context=20)

    measure_step(runner, largest, config.vision, ListingMeter(), None)


def test_an_estimate_grows_with_what_a_step_may_have(config):
    small = estimate_step(config, 256, 34, 2)
    large = estimate_step(config, 512, 68, 2)

    assert (large.prompts, large.pictures) == (2 * small.prompts, 2 * small.pictures)
