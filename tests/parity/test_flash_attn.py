"""flash-attn is called by its published signatures and rules: see tests/stand_ins/flash_attn."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from scoring.batch import FlatBatch
from scoring.kv_cache import LayerCache
from scoring.models.attention.flash import FlashAttnBackend
from scoring.models.attention.sdpa import SdpaBackend
from scoring.models.attention.self_test import TOLERANCES, largest_error
from scoring.models.kernels import EAGER

from ..fake_cuda import fake_tensors

CPU = torch.device("cpu")
HEADS, HEAD_DIM, BLOCK = 4, 96, 256


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "stand_ins")
    yield importlib.import_module("flash_attn")
    del sys.modules["flash_attn"]


@pytest.fixture
def backend(package: ModuleType) -> FlashAttnBackend:
    return FlashAttnBackend()


def to_batch(rows: list[tuple[int, int]], device: torch.device = CPU) -> FlatBatch:
    """Rows as (tokens of this step, tokens in the cache); what attention does not need is empty."""
    query_lens, context_lens = [r[0] for r in rows], [r[1] for r in rows]
    width = -(-max(context_lens) // BLOCK)
    starts = torch.tensor([0, *query_lens]).cumsum(0)
    nothing = torch.empty(0, dtype=torch.int64)
    tables = torch.arange(len(rows) * width).flip(0).view(len(rows), width)
    return FlatBatch(
        input_ids=nothing,
        positions=nothing,
        regimes=nothing,
        slot_mapping=nothing,
        block_tables=tables.int().to(device),
        query_starts=starts.int().to(device),
        key_lens=torch.tensor(context_lens).int().to(device),
        query_lens=query_lens,
        context_lens=context_lens,
        emitting=list(range(len(rows))),
        last_tokens=(starts[1:] - 1).to(device),
    )


def random_cache(batch: FlatBatch, dtype: torch.dtype, device: torch.device = CPU) -> LayerCache:
    slots = batch.block_tables.numel() * BLOCK
    keys, values = (torch.randn(slots, HEADS, HEAD_DIM).to(device, dtype) for _ in range(2))
    return LayerCache(keys, values)


ROWS = {
    "decodes": [(1, 1), (1, 256), (1, 257), (1, 600)],
    "prompts": [(5, 5), (300, 300)],
    "mixed": [(1, 30), (1, 512), (7, 7), (40, 300)],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_attends_as_plain_attention_does(backend, rows, dtype):
    torch.manual_seed(1)
    batch = to_batch(rows)
    cache = random_cache(batch, dtype)
    query = torch.randn(sum(batch.query_lens), HEADS, HEAD_DIM).to(dtype)

    attended = backend.attend(query, cache, backend.plan(batch))

    wide = LayerCache(cache.keys.float(), cache.values.float())
    plain = SdpaBackend(BLOCK)
    expected = plain.attend(query.float(), wide, plain.plan(batch))
    torch.testing.assert_close(attended.float(), expected, rtol=0, atol=TOLERANCES[dtype])


def test_a_batch_of_decodes_needs_no_length_on_the_host(backend):
    """In a captured step only the device knows them."""
    batch = replace(to_batch(ROWS["decodes"]), context_lens=None)
    query = torch.randn(4, HEADS, HEAD_DIM).bfloat16()

    backend.attend(query, random_cache(batch, torch.bfloat16), backend.plan(batch))


def test_it_passes_the_self_test(backend, config):
    error = largest_error(backend, EAGER, config, torch.bfloat16, CPU)

    assert 0 < error < TOLERANCES[torch.bfloat16]


def test_no_query_is_no_call(backend):
    batch = to_batch([(5, 5)])
    query = torch.empty(0, HEADS, HEAD_DIM).bfloat16()

    assert backend.attend(query, random_cache(batch, torch.bfloat16), None).shape == query.shape


SPOILED = {
    "a wide dtype": lambda q, batch, cache: (q.float(), batch, cache),
    "a cache of another dtype": lambda q, batch, cache: (
        q,
        batch,
        LayerCache(cache.keys.half(), cache.values.half()),
    ),
    "tables in 64 bits": lambda q, batch, cache: (
        q,
        replace(batch, block_tables=batch.block_tables.long()),
        cache,
    ),
    "lengths in 64 bits": lambda q, batch, cache: (
        q,
        replace(batch, key_lens=batch.key_lens.long(), query_starts=batch.query_starts.long()),
        cache,
    ),
    "queries that do not lie together": lambda q, batch, cache: (
        q.transpose(1, 2).contiguous().transpose(1, 2),
        batch,
        cache,
    ),
    "a table too few": lambda q, batch, cache: (
        q,
        replace(batch, block_tables=batch.block_tables[1:]),
        cache,
    ),
    "a head too wide": lambda q, batch, cache: (
        torch.cat([q] * 3, -1),
        batch,
        LayerCache(torch.cat([cache.keys] * 3, -1), torch.cat([cache.values] * 3, -1)),
    ),
}


@pytest.mark.parametrize("rows", ["decodes", "mixed"])
@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_the_kernels_refuse_is_noticed(backend, rows, spoil):
    """The stand-in's rules can fail."""
    batch = to_batch(ROWS[rows])
    query = torch.randn(sum(batch.query_lens), HEADS, HEAD_DIM).bfloat16()
    query, batch, cache = spoil(query, batch, random_cache(batch, torch.bfloat16))

    with pytest.raises(ValueError):  # noqa: PT011
        backend.attend(query, cache, backend.plan(batch))


def test_a_block_of_another_size_is_noticed(backend):
    backend.block_size = 128
    batch = to_batch(ROWS["mixed"])
    query = torch.randn(sum(batch.query_lens), HEADS, HEAD_DIM).bfloat16()

    with pytest.raises(ValueError, match="divisible by 256"):
        backend.attend(query, random_cache(batch, torch.bfloat16), backend.plan(batch))


def test_a_misspelt_argument_is_noticed(package):
    with pytest.raises(TypeError):
        package.flash_attn_with_kvcache(None, None, None, cache_seqlen=None)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_on_a_gpu_nothing_waits_and_nothing_lies_elsewhere(backend, rows):
    with fake_tensors():
        gpu = torch.device("cuda", 0)
        batch = to_batch(rows, gpu)
        cache = random_cache(batch, torch.bfloat16, gpu)
        query = torch.empty(
            sum(batch.query_lens), HEADS, HEAD_DIM, dtype=torch.bfloat16, device=gpu
        )
        attended: Tensor = backend.attend(query, cache, backend.plan(batch))

    assert (attended.shape, attended.device, attended.dtype) == (query.shape, gpu, torch.bfloat16)
