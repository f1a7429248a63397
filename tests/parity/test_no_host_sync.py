"""The steps of a GPU, on tensors that have a shape, a dtype and a device but no values.

A fake tensor's value cannot be read: an `.item()`, a `.tolist()`, an `if` on a tensor raise. What
else would make the host wait is counted: copies to the host, of which a step makes one, and copies
to the device that do not start in pinned memory's way.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from model_config import ModelConfig
from scoring.encoder_progress import CROP_PARTS, EncoderJob
from scoring.image_processor import HDPicture
from scoring.kv_cache import KVCache
from scoring.model_runner import ModelRunner
from scoring.models.attention.sdpa import SdpaBackend
from scoring.models.phi3_vision import Phi3VisionForCausalLM
from scoring.scheduler import ScheduledRow
from scoring.sequence import PENDING, ImageSpan, SamplingParams, Sequence
from scoring.weights import build_empty

from ..fake_cuda import fake_tensors

BLOCK_SIZE, NUM_BLOCKS, MAX_SEQS = 16, 64, 8
PLAIN = SamplingParams(max_tokens=50)
PARAMS = {
    "greedy": PLAIN,
    "drawn": replace(PLAIN, temperature=0.7),
    "truncated": replace(PLAIN, temperature=0.7, top_p=0.9, top_k=5, min_p=0.1),
    "penalised": replace(
        PLAIN, frequency_penalty=0.5, presence_penalty=0.1, repetition_penalty=1.1
    ),
    "biased": replace(PLAIN, logit_bias=((3, 2.0),), min_tokens=9, eos_token_ids=frozenset({2})),
    "with logprobs": replace(PLAIN, temperature=0.7, logprobs=5),
}


class Waits(TorchDispatchMode):
    """What makes the host wait for the device, and every operation's devices and results."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.dtypes: set[tuple[str, torch.dtype]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_faked, (args, kwargs or {}))
        result = func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        before, after = ({x.device.type for x in tensors} for tensors in (given, made))
        is_waiting = not kwargs.get("non_blocking", False) and not any(
            argument is True for argument in args
        )
        if after == {"cuda"} and "cpu" in before and is_waiting and any(x.dim() for x in given):
            self.found.append(f"{func} copies to the device and waits")
        if after == {"cpu"} and "cuda" in before:
            self.found.append(f"{func} copies to the host")
        self.dtypes |= {(str(func), x.dtype) for x in made}
        return result


def _faked(value: Any) -> Any:
    """Arrays and empty lists make real tensors, on the host."""
    mode = detect_fake_mode()
    is_real = isinstance(value, Tensor) and not isinstance(value, FakeTensor)
    return mode.from_tensor(value) if is_real and mode is not None else value


class CountedCopies:
    """The one way to the host, which the steps take on purpose. Nothing arrives."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def start(self, values: Tensor) -> "CountedCopies":
        assert values.device.type == "cuda"
        self.shapes.append(tuple(values.shape))
        return self

    def wait(self) -> Tensor:
        raise AssertionError("not in these tests")


class ReplayedAtOnce:
    """A graph that computes anew, without values."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.replay = work
        work()


def fake_weights(model: Phi3VisionForCausalLM, device: torch.device) -> Phi3VisionForCausalLM:
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            fake = torch.empty(weight.shape, dtype=torch.bfloat16, device=device)
            setattr(module, name, nn.Parameter(fake, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            fake = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
            module.register_buffer(name, fake, persistent=False)
    model.rope.to(device)
    return model.eval()


class FakeGPU:
    """A runner whose tensors are fake, on the device 'cuda'."""

    def __init__(self, config: ModelConfig, *, capture: bool) -> None:
        self.copies = CountedCopies()
        device = torch.device("cuda", 0)
        model = fake_weights(build_empty(config), device)
        attention = SdpaBackend(BLOCK_SIZE)
        cache = KVCache(config, NUM_BLOCKS, BLOCK_SIZE, torch.bfloat16, device)
        self.runner = ModelRunner(
            model,
            cache,
            attention,
            feature_cache_bytes=1 << 20,
            max_num_seqs=MAX_SEQS,
            copies=self.copies,
        )
        if capture:
            self.runner.capture(ReplayedAtOnce, NUM_BLOCKS * BLOCK_SIZE)

    def step(self, rows: list[ScheduledRow]) -> Waits:
        waits = Waits()
        self.copies.shapes.clear()
        with waits:
            self.runner.launch(rows).sample()
        return waits


def decoding(name: str, params: SamplingParams = PLAIN, length: int = 20) -> ScheduledRow:
    rng = random.Random(name)
    sequence = Sequence(name, [rng.randrange(1000) for _ in range(length)], params)
    sequence.token_ids.append(7)
    sequence.block_table = list(range(2))
    return ScheduledRow(sequence, length, 1)


def prefilling(name: str, start: int, num_tokens: int, length: int) -> ScheduledRow:
    sequence = Sequence(name, [5] * length, PLAIN)
    sequence.block_table = list(range(10, 10 + -(-length // BLOCK_SIZE)))
    return ScheduledRow(sequence, start, num_tokens)


def with_picture(config: ModelConfig, name: str) -> ScheduledRow:
    """A prompt with a picture, which is encoded in this very step."""
    crop, num_tokens = config.vision.crop_size, (1 + 1) * 144 + 1 + (1 + 1) * 12
    picture = HDPicture(np.zeros((crop, crop, 3), dtype=np.uint8), name.encode(), num_tokens)
    token_ids = [1, *[-1] * num_tokens, 2, 3]
    sequence = Sequence(name, token_ids, PLAIN, (ImageSpan(picture, 1),))
    sequence.block_table = list(range(20, 20 + -(-len(token_ids) // BLOCK_SIZE)))
    parts = 2 * CROP_PARTS
    return ScheduledRow(sequence, 0, len(token_ids), (EncoderJob(picture, 0, parts, parts),))


def rows_of(kind: str, config: ModelConfig) -> list[ScheduledRow]:
    decodes = [decoding(name, params) for name, params in PARAMS.items()]
    match kind:
        case "decodes":
            return decodes
        case "prompts":
            return [prefilling("whole", 0, 40, 40), prefilling("chunk", 16, 20, 80)]
        case "no row emits":
            return [prefilling("chunk", 16, 20, 80)]
        case "picture":
            return [with_picture(config, "chart")]
        case "mixed":
            return [*decodes, prefilling("rest", 64, 16, 80), with_picture(config, "photo")]
    raise ValueError(kind)


KINDS = ["decodes", "prompts", "no row emits", "picture", "mixed"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_makes_one_copy_to_the_host_and_waits_for_nothing(config, kind):
    with fake_tensors():
        gpu, rows = FakeGPU(config, capture=False), rows_of(kind, config)
        waits = gpu.step(rows)

    assert waits.found == []
    assert len(gpu.copies.shapes) == any(row.emits for row in rows)


@pytest.mark.parametrize("name", PARAMS)
def test_each_way_to_sample_waits_for_nothing(config, name):
    with fake_tensors():
        gpu = FakeGPU(config, capture=False)
        waits = gpu.step([decoding("a", PARAMS[name]), decoding("b", PARAMS[name])])

    assert waits.found == []
    assert len(gpu.copies.shapes) == 1


@pytest.mark.parametrize("kind", ["decodes", "mixed"])
def test_tokens_that_the_host_does_not_know_are_taken_on_the_device(config, kind):
    with fake_tensors():
        gpu = FakeGPU(config, capture=False)
        rows = rows_of(kind, config)
        gpu.step(rows)
        following = []
        for row in rows:
            if row.emits:
                row.sequence.token_ids.append(PENDING)
                row.sequence.block_table.append(50)
                following.append(ScheduledRow(row.sequence, row.end, 1))
        waits = Waits()
        with waits:
            gpu.runner.launch(following)

    assert waits.found == []


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_cache_keep_their_dtype_and_logits_are_wide(config, kind):
    with fake_tensors():
        gpu = FakeGPU(config, capture=False)
        waits = Waits()
        with waits:
            launched = gpu.runner.launch(rows_of(kind, config))

    for operation in ("aten.linear", "aten.scaled_dot_product"):
        dtypes = {dtype for name, dtype in waits.dtypes if name.startswith(operation)}
        assert dtypes == {torch.bfloat16}
    assert launched.logits is None or launched.logits.dtype is torch.float32


@pytest.mark.parametrize("spoil", ["item", "branch", "to_host", "from_list"])
def test_a_wait_that_somebody_adds_is_noticed(config, spoil):
    """The checks above can fail."""
    with fake_tensors():
        gpu = FakeGPU(config, capture=False)
        attend = gpu.runner._attention.attend

        def spoiled(query: Tensor, *rest: Any) -> Tensor:
            if spoil == "item":
                query.sum().item()
            elif spoil == "branch":
                if query.isnan().any():
                    raise AssertionError
            elif spoil == "to_host":
                query.cpu()
            else:
                torch.tensor([1.0, 2.0]).to(query.device)
            return attend(query, *rest)

        gpu.runner._attention.attend = spoiled
        if spoil in ("item", "branch"):
            with pytest.raises(DataDependentOutputException):
                gpu.step(rows_of("decodes", config))
        else:
            assert gpu.step(rows_of("decodes", config)).found


def test_no_tensor_of_the_step_lies_on_the_host(config):
    with fake_tensors():
        gpu = FakeGPU(config, capture=False)
        logits = gpu.runner.launch(rows_of("decodes", config)).logits

    assert isinstance(logits, FakeTensor)
    assert logits.device.type == "cuda"
