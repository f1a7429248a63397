"""The Triton kernels, in Triton's interpreter, beside plain torch."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from scoring.kv_cache import LayerCache
from scoring.models.attention.sdpa import SdpaBackend
from scoring.models.attention.self_test import TOLERANCES, largest_error, pieces_error
from scoring.models.kernels import EAGER

from .test_flash_attn import to_batch

CPU = torch.device("cpu")
HEADS, HEAD_DIM = 2, 96
# Within a tile, a block, a split; at their ends and beyond; empty; and as many splits as there are.
LENGTHS = [1, 0, 15, 16, 17, 31, 33, 255, 256, 257, 511, 600, 1025, 2048, 4097, 5000]
DTYPES = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture(scope="module")
def triton() -> SimpleNamespace:
    """The kernels as functions of the interpreter."""
    if sys.platform != "linux":
        pytest.skip("triton is for Linux")
    if torch.cuda.is_available():
        pytest.skip("here is a GPU: make gpu-check runs the compiled kernels")
    from scoring.models.attention.triton import TritonBackend
    from scoring.models.triton_kernels import triton_kernels
    from scoring.models.triton_kernels.paged_decode import paged_decode

    return SimpleNamespace(backend=TritonBackend, decode=paged_decode, kernels=triton_kernels())


class Case:
    """Rows of some lengths whose blocks lie anywhere, and nothing but NaN where no key is."""

    def __init__(self, lengths: list[int], block_size: int, dtype: torch.dtype, seed: int = 0):
        random = torch.Generator().manual_seed(seed)
        num_blocks = [-(-length // block_size) for length in lengths]
        width = max(max(num_blocks), 1)
        free = iter(torch.randperm(sum(num_blocks) + 1, generator=random).tolist())
        tables = [[next(free) for _ in range(n)] for n in num_blocks]
        self.tables = torch.tensor([t + [0] * (width - len(t)) for t in tables]).int()
        self.key_lens = torch.tensor(lengths).int()
        self.query = torch.randn(len(lengths), HEADS, HEAD_DIM, generator=random).to(dtype)
        shape = ((sum(num_blocks) + 1) * block_size, HEADS, HEAD_DIM)
        keys, values = (torch.full(shape, torch.nan, dtype=dtype) for _ in range(2))
        self.slots = [
            [t[i // block_size] * block_size + i % block_size for i in range(length)]
            for t, length in zip(tables, lengths, strict=True)
        ]
        for slots in self.slots:
            for cache in (keys, values):
                cache[slots] = torch.randn(len(slots), *shape[1:], generator=random).to(dtype)
        self.cache = LayerCache(keys, values)
        self.block_size = block_size

    def expected(self) -> Tensor:
        """Plain attention in float64; zeros for a row without keys."""
        outputs = []
        for query, slots in zip(self.query.double(), self.slots, strict=True):
            keys, values = (x.double() for x in self.cache.read(torch.tensor(slots).long(), DOUBLE))
            scores = torch.einsum("hd,khd->hk", query, keys) / HEAD_DIM**0.5
            outputs.append(torch.einsum("hk,khd->hd", scores.softmax(-1), values))
        return torch.stack(outputs)

    def attend(self, triton: SimpleNamespace) -> Tensor:
        return triton.decode(self.query, self.cache, self.tables, self.key_lens, self.block_size)


DOUBLE = torch.float64


@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decodes_are_plain_attention(triton, block_size, dtype):
    case = Case(LENGTHS, block_size, dtype)

    attended = case.attend(triton)

    assert attended.dtype is dtype
    torch.testing.assert_close(attended.double(), case.expected(), rtol=0, atol=DTYPES[dtype])
    assert not attended[1].any()  # the empty row


def test_company_changes_no_bit(triton):
    case = Case(LENGTHS[-6:], 16, torch.float32)
    together = case.attend(triton)

    for row in range(len(case.key_lens)):
        alone = Case(LENGTHS[-6:], 16, torch.float32)
        # With a longer table, too: a captured step's is as long as the longest context's.
        tables = torch.nn.functional.pad(case.tables[row : row + 1], (0, 100))
        alone.query, alone.tables = case.query[row : row + 1], tables
        alone.key_lens = case.key_lens[row : row + 1]
        assert torch.equal(alone.attend(triton)[0], together[row])


@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_heads_of_other_sizes(triton, head_dim):
    random = torch.Generator().manual_seed(3)
    cache = LayerCache(*(torch.randn(64, HEADS, head_dim, generator=random) for _ in range(2)))
    query = torch.randn(1, HEADS, head_dim, generator=random)
    tables = torch.arange(4).int()[None]

    attended = triton.decode(query, cache, tables, torch.tensor([50]).int(), 16)

    scores = torch.einsum("hd,khd->hk", query[0], cache.keys[:50]) / head_dim**0.5
    expected = torch.einsum("hk,khd->hd", scores.softmax(-1), cache.values[:50])
    torch.testing.assert_close(attended[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3])
def test_pieces_are_those_of_plain_torch(triton, dtype, rows):
    random = torch.Generator().manual_seed(rows)

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(dtype)

    # Sizes that are no powers of two, and more than one program for a row.
    x, residual, weight, gate_up = make(rows, 192), make(rows, 192), make(192), make(rows, 4000)
    ours, plain = triton.kernels, EAGER
    # Three roundings, each of which may fall the other way.
    close = {"rtol": 3 * torch.finfo(dtype).eps, "atol": 1e-6}
    torch.testing.assert_close(
        ours.rms_norm(x, weight, 1e-5), plain.rms_norm(x, weight, 1e-5), **close
    )
    for mine, theirs in zip(
        ours.add_rms_norm(x, residual, weight, 1e-5),
        plain.add_rms_norm(x, residual, weight, 1e-5),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, **close)
    torch.testing.assert_close(ours.swiglu(gate_up), plain.swiglu(gate_up), **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [2, 11])
def test_rotated_keys_and_values_land_in_their_slots(triton, dtype, heads):
    """Heads that fill no program, too."""
    random = torch.Generator().manual_seed(5)
    qkv = torch.randn(4, 3 * heads * HEAD_DIM, generator=random).to(dtype)
    angles = torch.rand(4, 1, HEAD_DIM // 2, generator=random) * 6
    cos, sin = (torch.cat([f(angles)] * 2, -1).to(dtype) for f in (torch.cos, torch.sin))
    slots = torch.tensor([3, 17, 0, 9])
    caches = [
        LayerCache(*(torch.zeros(20, heads, HEAD_DIM, dtype=dtype) for _ in range(2)))
        for _ in range(2)
    ]

    query = triton.kernels.rotate_and_write(qkv, cos, sin, caches[0], slots)
    expected = EAGER.rotate_and_write(qkv, cos, sin, caches[1], slots)

    close = {"rtol": 0, "atol": 1e-6 if dtype is torch.float32 else 4e-2}
    torch.testing.assert_close(query, expected, **close)
    torch.testing.assert_close(caches[0].keys, caches[1].keys, **close)
    assert torch.equal(caches[0].values, caches[1].values)


def float8_cache(num_slots: int) -> LayerCache:
    values = [torch.zeros(num_slots, HEADS, HEAD_DIM, dtype=torch.uint8) for _ in range(2)]
    return LayerCache(*values, *(torch.zeros(num_slots, HEADS) for _ in range(2)))


def test_8_bits_are_written_and_read_as_plain_torch_does(triton):
    """Every magnitude from subnormal to large, zeros, and one vector that is not finite."""
    random = torch.Generator().manual_seed(7)
    sizes = torch.logspace(-12, 6, 40)[:, None, None]
    qkv = torch.randn(40, 3, HEADS, HEAD_DIM, generator=random) * sizes[:, None]
    qkv *= torch.logspace(-3, 0, HEAD_DIM)
    qkv[3] = 0
    qkv[4, 1, 0, 5] = torch.nan
    ones = torch.ones(40, 1, HEAD_DIM)
    slots = torch.arange(40).flip(0)
    ours, plain = float8_cache(40), float8_cache(40)
    flat = qkv.flatten(1)
    triton.kernels.rotate_and_write(flat, ones, 0 * ones, ours, slots)
    EAGER.rotate_and_write(flat, ones, 0 * ones, plain, slots)

    for name in ("keys", "values", "key_scales", "value_scales"):
        mine, theirs = getattr(ours, name), getattr(plain, name)
        if name == "keys":  # of the vector that is not finite only the scale counts
            mine[35, 0] = theirs[35, 0] = 0
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
    assert ours.key_scales[35, 0].isnan()
    finite = slots != 35
    read, _ = ours.read(slots[finite], torch.float32)
    given = qkv[finite][:, 1]
    largest = given.abs().amax(-1, keepdim=True)
    # Three bits of mantissa, and below the normal numbers a 448th of 2^-9 of the largest.
    assert ((read - given).abs() <= given.abs() / 16 + largest * 2**-18 + 1e-20).all()


@pytest.mark.parametrize("block_size", [16, 64])
def test_decodes_read_8_bits(triton, block_size):
    lengths = [1, 0, 17, 300, 1100]
    case = Case(lengths, block_size, torch.bfloat16)
    cache = float8_cache(len(case.cache.keys))
    every = torch.tensor([slot for slots in case.slots for slot in slots])
    cache.write(every, case.cache.keys[every], case.cache.values[every])
    case.cache = cache

    attended = case.attend(triton)

    # bfloat16's last place of what is about 2.
    torch.testing.assert_close(attended.double(), case.expected(), rtol=2**-8, atol=1e-2)


def test_the_backend_passes_the_self_test(triton, config):
    backend = triton.backend()

    kernels = triton.kernels
    # The interpreter takes its time over the writing; what is written is the same in both.
    for pieces, float8 in ((EAGER, False), (kernels, True)):
        error = largest_error(backend, pieces, config, torch.bfloat16, CPU, float8=float8)
        assert error < TOLERANCES[torch.bfloat16]
    assert pieces_error(kernels, config, torch.bfloat16, CPU) < TOLERANCES[torch.bfloat16]


def test_a_batch_of_decodes_needs_no_length_on_the_host(triton):
    """In a captured step only the device knows them; and padding is a row of one token."""
    batch = to_batch([(1, 30), (1, 200), (1, 1)])
    cache = LayerCache(*(torch.randn(3 * 256, HEADS, HEAD_DIM) for _ in range(2)))
    query = torch.randn(3, HEADS, HEAD_DIM)
    backend, plain = triton.backend(256), SdpaBackend(256)

    captured = backend.plan(replace(batch, context_lens=None))
    attended = backend.attend(query, cache, captured)

    expected = plain.attend(query, cache, plain.plan(batch))
    torch.testing.assert_close(attended, expected, rtol=0, atol=1e-6)


def test_every_byte_reads_as_torch_reads_it(triton):
    """Through a cache of one key: its value is what comes out."""
    every = torch.arange(256, dtype=torch.uint8)
    every = every[every.view(torch.float8_e4m3fn).float().isfinite()]
    values = torch.zeros(16, 1, 128, dtype=torch.uint8)
    for start in (0, 127):
        part = every[start : start + 127]
        values[0, 0, : len(part)] = part
        cache = LayerCache(
            torch.zeros_like(values), values, torch.ones(16, 1), torch.full((16, 1), 3.0)
        )
        attended = triton.decode(
            torch.zeros(1, 1, 128), cache, torch.zeros(1, 1).int(), torch.ones(1).int(), 16
        )
        assert torch.equal(attended[0, 0, : len(part)], part.view(torch.float8_e4m3fn).float() * 3)
