"""The steps of a GPU, on tensors that have a shape, a dtype and a device but no values.

A fake tensor's value cannot be read: an `.item()`, a `.tolist()`, an `if` on a tensor raise. What
else would make the host wait is counted: copies to the host, of which a step makes one, and copies
to the device that do not start in pinned memory's way.
"""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
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
from scoring.models.attention.flash import FlashAttnBackend
from scoring.models.attention.interface import AttentionBackend
from scoring.models.attention.sdpa import SdpaBackend
from scoring.models.kernels import EAGER, Kernels
from scoring.models.phi3_vision import Phi3VisionForCausalLM
from scoring.scheduler import ScheduledRow
from scoring.sequence import PENDING, ImageSpan, SamplingParams, Sequence
from scoring.weights import build_empty

from ..fake_cuda import fake_tensors

BLOCK_SIZE, NUM_BLOCKS, MAX_SEQS = 16, 64, 8  # blocks of others are larger
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


def sdpa() -> tuple[AttentionBackend, Kernels, torch.dtype]:
    return SdpaBackend(16), EAGER, torch.bfloat16


def varlen() -> tuple[AttentionBackend, Kernels, torch.dtype]:
    return SdpaBackend(16, varlen=True), EAGER, torch.bfloat16


def flash() -> tuple[AttentionBackend, Kernels, torch.dtype]:
    return FlashAttnBackend(), EAGER, torch.bfloat16


def triton() -> tuple[AttentionBackend, Kernels, torch.dtype]:
    if sys.platform != "linux":
        pytest.skip("triton is for Linux")
    from scoring.models.attention.triton import TritonBackend
    from scoring.models.triton_kernels import triton_kernels

    return TritonBackend(16, varlen=True), triton_kernels(), torch.bfloat16


def triton_8_bits() -> tuple[AttentionBackend, Kernels, torch.dtype]:
    return *triton()[:2], torch.float8_e4m3fn


MakeBackend = Callable[[], tuple[AttentionBackend, Kernels, torch.dtype]]
CAPTURING = [flash, triton, triton_8_bits]
BACKENDS = [sdpa, varlen, *CAPTURING]


@pytest.fixture(autouse=True)
def _flash_attn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "stand_ins")
    yield
    sys.modules.pop("flash_attn", None)


class FakeGPU:
    """A runner whose tensors are fake, on the device 'cuda'."""

    def __init__(self, config: ModelConfig, make: MakeBackend, *, capture: bool = False) -> None:
        self.copies = CountedCopies()
        device = torch.device("cuda", 0)
        model = fake_weights(build_empty(config), device)
        attention, kernels, dtype = make()
        self.block_size = attention.block_size
        cache = KVCache(config, NUM_BLOCKS, self.block_size, dtype, device)
        self.runner = ModelRunner(
            model,
            cache,
            attention,
            feature_cache_bytes=1 << 20,
            max_num_seqs=MAX_SEQS,
            kernels=kernels,
            copies=self.copies,
        )
        if capture:
            self.runner.capture(ReplayedAtOnce, NUM_BLOCKS * self.block_size)

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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_makes_one_copy_to_the_host_and_waits_for_nothing(config, kind, backend):
    with fake_tensors():
        gpu, rows = FakeGPU(config, backend), rows_of(kind, config)
        waits = gpu.step(rows)

    assert waits.found == []
    assert len(gpu.copies.shapes) == any(row.emits for row in rows)


@pytest.mark.parametrize("capture", [False, True], ids=["flat", "captured"])
@pytest.mark.parametrize("name", PARAMS)
def test_each_way_to_sample_waits_for_nothing(config, name, capture):
    with fake_tensors():
        gpu = FakeGPU(config, flash, capture=capture)
        waits = gpu.step([decoding("a", PARAMS[name]), decoding("b", PARAMS[name])])

    assert waits.found == []
    assert len(gpu.copies.shapes) == 1


@pytest.mark.parametrize("backend", CAPTURING)
def test_a_captured_step_waits_for_nothing(config, backend):
    with fake_tensors():
        gpu = FakeGPU(config, backend, capture=True)
        waits = gpu.step(rows_of("decodes", config))
        assert len(gpu.copies.shapes) == 1
        again = gpu.step(rows_of("decodes", config)[:2])

    assert waits.found == again.found == []


def following(rows: list[ScheduledRow]) -> list[ScheduledRow]:
    """The rows of the step after, launched before the tokens of this one are known."""
    emitting = [row for row in rows if row.emits]
    for row in emitting:
        row.sequence.token_ids.append(PENDING)
        row.sequence.block_table.append(50)
    return [ScheduledRow(row.sequence, row.end, 1) for row in emitting]


@pytest.mark.parametrize("capture", [False, True], ids=["flat", "captured"])
@pytest.mark.parametrize("kind", ["decodes", "mixed"])
def test_tokens_that_the_host_does_not_know_are_taken_on_the_device(config, kind, capture):
    with fake_tensors():
        gpu, rows = FakeGPU(config, flash, capture=capture), rows_of(kind, config)
        gpu.step(rows)
        waits = Waits()
        with waits:
            gpu.runner.launch(following(rows))

    assert waits.found == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_keep_their_dtype_and_logits_are_wide(config, kind, backend):
    with fake_tensors():
        gpu = FakeGPU(config, backend)
        waits = Waits()
        with waits:
            logits = gpu.runner.launch(rows_of(kind, config)).logits

    dtypes = {dtype for name, dtype in waits.dtypes if name.startswith("aten.linear")}
    assert dtypes == {torch.bfloat16}
    attended = [n for n, d in waits.dtypes if "scaled_dot_product" in n and d is torch.float32]
    assert attended == []
    if logits is not None:
        assert isinstance(logits, FakeTensor)
        assert (logits.device.type, logits.dtype) == ("cuda", torch.float32)


@pytest.mark.parametrize("capture", [False, True], ids=["flat", "captured"])
@pytest.mark.parametrize("spoil", ["item", "branch", "to_host", "from_list"])
def test_a_wait_that_somebody_adds_is_noticed(config, spoil, capture):
    """The checks above can fail."""
    with fake_tensors():
        gpu = FakeGPU(config, flash, capture=capture)
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
