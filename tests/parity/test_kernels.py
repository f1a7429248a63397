"""The fast paths of a step against the plain ones."""

import math
import shutil
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoring.engine_builder import build_engine
from scoring.engine_config import EngineConfig
from scoring.kv_cache import LayerCache
from scoring.models.attention.compiled import paged_decode
from scoring.models.kernels import EAGER, Kernels, compiled_kernels
from scoring.models.native_kernels import load_native
from scoring.models.packed_linear import NativeLinear, OneDnnLinear, pack_linears
from scoring.weights import load_model

from .golden import RUNS
from .test_forward import TOLERANCE, assert_close, forward
from .test_generation import generate, some_runs

# Compiling, torch uses what it tells others not to.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

HEADS, HEAD_DIM, NUM_SLOTS = 2, 96, 64


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(scope="module", params=["eager", "compiled", "native"])
def kernels(request, config) -> Kernels:
    if request.param == "eager":
        return EAGER
    if request.param == "native":
        native, why = load_native(torch.float32, config.text)
        return native.kernels(16) if native else pytest.skip(why)
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++ on a CPU")
    return compiled_kernels()


def test_every_kernel_is_replaced(kernels):
    for field in fields(Kernels):
        same = getattr(kernels, field.name) is getattr(EAGER, field.name)
        assert same == (kernels is EAGER)


@pytest.mark.parametrize("num_tokens", [1, 2, 5])
def test_the_norm_is_the_formula(kernels, num_tokens):
    x, weight = random(num_tokens, 192), random(192, seed=1)
    naive = x / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-5), naive.float())

    residual = random(num_tokens, 192, seed=2)
    normed, total = kernels.add_rms_norm(x, residual, weight, 1e-5)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(normed, EAGER.rms_norm(x + residual, weight, 1e-5))


def test_the_norm_is_computed_in_float32():
    """In bfloat16 the mean of squares alone would be off by a percent."""
    x, weight = random(3, 3072, dtype=torch.bfloat16) * 30, torch.ones(3072, dtype=torch.bfloat16)

    normed = EAGER.rms_norm(x, weight, 1e-5)

    assert normed.dtype is torch.bfloat16
    expected = x.float() / (x.float().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.equal(normed, expected.to(torch.bfloat16))


@pytest.mark.parametrize("num_tokens", [1, 2, 5])
def test_the_gate_comes_first(kernels, num_tokens):
    gate_up = random(num_tokens, 512)
    gate, up = gate_up[:, :256], gate_up[:, 256:]

    expected = up * gate * torch.sigmoid(gate)

    torch.testing.assert_close(kernels.swiglu(gate_up), expected)


@pytest.mark.parametrize("num_tokens", [1, 2, 5])
def test_keys_are_rotated_and_values_are_not_and_both_land_in_their_slots(kernels, num_tokens):
    qkv = random(num_tokens, 3 * HEADS * HEAD_DIM)
    angles = random(num_tokens, 1, HEAD_DIM // 2, seed=1)
    cos, sin = (torch.cat((f, f), dim=-1) for f in (angles.cos(), angles.sin()))
    keys = torch.full((NUM_SLOTS, HEADS, HEAD_DIM), math.nan)
    values = keys.clone()
    slots = torch.tensor([40, 3, 63, 0, 17])[:num_tokens]

    query = kernels.rotate_and_write(qkv, cos, sin, LayerCache(keys, values), slots)

    def rotated(x: Tensor) -> Tensor:
        """Pairs of elements half a head apart as complex numbers, turned by their angle."""
        pairs = torch.complex(x[..., : HEAD_DIM // 2], x[..., HEAD_DIM // 2 :])
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((turned.real, turned.imag), dim=-1)

    plain = qkv.view(num_tokens, 3, HEADS, HEAD_DIM)
    torch.testing.assert_close(query, rotated(plain[:, 0]))
    if kernels.name == "native":  # where they land, only its attention knows: test_native_kernels
        return
    torch.testing.assert_close(keys[slots], rotated(plain[:, 1]))
    torch.testing.assert_close(values[slots], plain[:, 2])
    untouched = [slot for slot in range(NUM_SLOTS) if slot not in slots.tolist()]
    assert keys[untouched].isnan().all()
    assert values[untouched].isnan().all()


@pytest.fixture(scope="module", params=["eager", "compiled"])
def decode(request):
    if request.param == "eager":
        return paged_decode
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++ on a CPU")
    return torch.compile(paged_decode, dynamic=True)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=["f32", "bf16"]
)
@pytest.mark.parametrize("lengths", [[1], [7], [5, 1, 9]], ids=str)
def test_decoding_from_the_cache_is_plain_attention(decode, lengths, dtype, tolerance):
    """Each row over its own scattered slots; the other slots were never written."""
    query = random(len(lengths), HEADS, HEAD_DIM, dtype=dtype)
    keys, values = (random(NUM_SLOTS, HEADS, HEAD_DIM, seed=s, dtype=dtype) for s in (1, 2))
    order = torch.randperm(NUM_SLOTS, generator=torch.Generator().manual_seed(3))
    own = torch.split(order[: sum(lengths)], lengths)
    keys[order[sum(lengths) :]] = values[order[sum(lengths) :]] = math.nan
    longest = max(lengths)
    slots = torch.stack([F.pad(row, (0, longest - len(row)), value=int(row[0])) for row in own])
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]

    attended = decode(query, keys, values, slots, mask)

    assert attended.dtype is dtype
    for row, row_slots in enumerate(own):
        weights = torch.einsum("hd,lhd->hl", query[row].double(), keys[row_slots].double())
        weights = (weights / math.sqrt(HEAD_DIM)).softmax(-1)
        expected = torch.einsum("hl,lhd->hd", weights, values[row_slots].double())
        torch.testing.assert_close(attended[row].double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 3, 16, 200])
@pytest.mark.parametrize("kind", ["onednn", "native"])
def test_a_packed_linear_layer_is_the_layer(config, kind, num_rows, bias, dtype):
    linear = nn.Linear(192, 300, bias=bias, dtype=dtype)
    x = random(2, num_rows, 192, dtype=dtype)
    native, why = load_native(dtype, config.text)
    if kind == "native" and native is None:
        pytest.skip(why)

    with torch.inference_mode():
        packed = OneDnnLinear(linear) if kind == "onednn" else NativeLinear(linear, native)

        expected = linear(x)
        tolerance = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(packed(x), expected, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(packed(x[0]), expected[0], atol=tolerance, rtol=tolerance)
        # As the vision tower may give them: not contiguous.
        turned = x.transpose(0, 1)
        torch.testing.assert_close(packed(turned), packed(x).transpose(0, 1))


@pytest.mark.parametrize("kind", ["onednn", "native"])
@pytest.mark.parametrize("case", ["text_user", "image_strip"])
def test_the_packed_model_has_the_published_logits(case, kind, golden, tiny, config):
    device = torch.device("cpu")
    model = load_model(tiny, config, device, torch.float32, lambda done, total: None)
    native, why = load_native(torch.float32, config.text) if kind == "native" else (None, "")
    if kind == "native" and native is None:
        pytest.skip(why)
    pack_linears(model, native)
    assert not [m for m in model.modules() if isinstance(m, nn.Linear)]
    arrays = golden.arrays(case)

    ours = forward(model, config, golden.sequence(case))

    assert_close(ours.logits(slice(-1, None))[0], arrays["last_logits"], TOLERANCE)
    assert_close(ours.hidden[arrays["hidden_positions"].tolist()], arrays["hidden"], TOLERANCE)


def test_the_compiled_engine_gives_the_published_tokens(golden, tiny):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++ on a CPU")
    engine = build_engine(
        EngineConfig(
            tiny,
            device="cpu",
            dtype="float32",
            kv_cache_bytes=32 << 20,
            max_num_batched_tokens=512,
            kernels="compiled",
        ),
        lambda done, total: None,
    )
    sequences, expected = some_runs(golden, RUNS)

    assert generate(engine, sequences) == expected
