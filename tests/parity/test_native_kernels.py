"""The native kernels: right, the same in every arrangement, and done without where need be."""

import math
import shutil
from itertools import accumulate, pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_config import from_checkpoint
from scoring.batch import FlatBatch
from scoring.engine import Engine
from scoring.engine_builder import build_engine
from scoring.engine_config import EngineConfig
from scoring.errors import CheckpointError
from scoring.kv_cache import LayerCache
from scoring.models import native_kernels
from scoring.models.attention.cpu import CpuBackend
from scoring.models.native_kernels import NativeKernels, load_native
from scoring.models.packed_linear import NativeInt8Linear, NativeLinear
from scoring.sequence import SamplingParams, Sequence

from .test_generation import some_runs

HEADS, NUM_BLOCKS = 3, 40
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=DTYPES, ids=["f32", "bf16"])
def native(request, config) -> NativeKernels:
    found, why = load_native(request.param, config.text)
    return found or pytest.skip(why)


class Cache:
    """Keys and values of some sequences, written and read through the kernels. Slots that were
    never written hold NaN. What is written is kept, in float32, for the reference."""

    def __init__(self, native: NativeKernels, head_dim: int, block_size: int) -> None:
        self.native, self.block_size, self.head_dim = native, block_size, head_dim
        keys = torch.full((NUM_BLOCKS * block_size, HEADS, head_dim), math.nan, dtype=native.dtype)
        self.layer = LayerCache(keys, keys.clone())
        self._free = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(1)).tolist()

    def table(self, num_tokens: int) -> list[int]:
        return [self._free.pop() for _ in range(-(-num_tokens // self.block_size))]

    def write(self, table: list[int], qkv: Tensor, start: int) -> Tensor:
        """Tokens start … start + len(qkv) of a sequence, not rotated. → their queries."""
        tokens = range(start, start + len(qkv))
        slots = [
            table[t // self.block_size] * self.block_size + t % self.block_size for t in tokens
        ]
        cos = torch.ones(len(qkv), 1, self.head_dim, dtype=self.native.dtype)
        write = self.native.kernels(self.block_size).rotate_and_write
        return write(qkv, cos, 0 * cos, self.layer, torch.tensor(slots))

    def attend(self, tables: list[list[int]], queries: list[Tensor], lengths: list[int]) -> Tensor:
        width = max(map(len, tables))
        nothing = torch.empty(0)
        batch = FlatBatch(
            input_ids=nothing,
            positions=nothing,
            regimes=nothing,
            slot_mapping=nothing,
            block_tables=torch.tensor([t + [0] * (width - len(t)) for t in tables]).int(),
            query_starts=torch.tensor([0, *accumulate(map(len, queries))]).int(),
            key_lens=torch.tensor(lengths).int(),
            query_lens=[len(query) for query in queries],
            context_lens=lengths,
            emitting=[],
            last_tokens=nothing,
        )
        backend = CpuBackend(self.native, self.block_size)
        return backend.attend(torch.cat(queries), self.layer, backend.plan(batch))


def make_qkv(num_tokens: int, head_dim: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(num_tokens, 3 * HEADS * head_dim, generator=random).to(dtype)


def reference(qkv: Tensor, head_dim: int) -> Tensor:
    """Causal attention of a whole sequence in float64, (T, heads, head_dim)."""
    query, key, value = qkv.double().view(len(qkv), 3, HEADS, head_dim).permute(1, 2, 0, 3)
    mask = torch.ones(len(qkv), len(qkv), dtype=torch.bool).tril()
    scores = (query @ key.transpose(1, 2) / math.sqrt(head_dim)).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(0, 1)


@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("head_dim", [32, 96, 128])
def test_attention_is_plain_attention(native, head_dim, block_size):
    """Prompts and decodes of many lengths in one batch, their caches filled in odd chunks."""
    cache = Cache(native, head_dim, block_size)
    rows = [(1, 1), (1, 17), (1, 64), (1, 65), (1, 150), (5, 5), (33, 33), (21, 101)]
    tables, queries, expected = [], [], []
    for seed, (num_queries, length) in enumerate(rows):
        qkv = make_qkv(length, head_dim, native.dtype, seed)
        table = cache.table(length)
        starts = [*range(0, length - num_queries, 7), length - num_queries, length]
        pieces = [cache.write(table, qkv[a:b], a) for a, b in pairwise(starts)]
        tables.append(table)
        queries.append(pieces[-1])
        expected.append(reference(qkv, head_dim)[-num_queries:])

    attended = cache.attend(tables, queries, [length for _, length in rows])

    tolerance = 2e-6 if native.dtype is torch.float32 else 3e-2
    torch.testing.assert_close(
        attended.double(), torch.cat(expected), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("length", [1, 16, 65, 577])
def test_attention_of_all_over_all_is_plain_attention(native, length):
    generator = torch.Generator().manual_seed(length)
    query, key, value = torch.randn(3, 2, length, HEADS, 64, generator=generator).to(native.dtype)

    ours = native.attend_all(query, key, value)

    plain = F.scaled_dot_product_attention(
        *(x.float().transpose(1, 2) for x in (query, key, value))
    ).transpose(1, 2)
    tolerance = 1e-5 if native.dtype is torch.float32 else 2e-2
    torch.testing.assert_close(ours.float(), plain, rtol=tolerance, atol=tolerance)
    assert torch.equal(native.attend_all(query[1:], key[1:], value[1:])[0], ours[1])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neighbours_chunks_and_threads_change_no_bit_of_attention(native, threads):
    length, head_dim = 150, 96
    cache = Cache(native, head_dim, 16)
    qkv = make_qkv(length, head_dim, native.dtype)
    table, other = cache.table(length), cache.table(70)
    queries = cache.write(table, qkv, 0)
    neighbour = cache.write(other, make_qkv(70, head_dim, native.dtype, 1), 0)
    before = torch.get_num_threads()
    whole = cache.attend([table], [queries], [length])
    torch.set_num_threads(threads)
    try:
        one_by_one = [
            cache.attend([table, other], [queries[t : t + 1], neighbour[-1:]], [t + 1, 70])[:1]
            for t in range(0, length, 11)
        ]
        chunk = cache.attend([other, table], [neighbour, queries[40:101]], [70, 101])[70:]
    finally:
        torch.set_num_threads(before)

    assert torch.equal(torch.cat(one_by_one), whole[::11])
    assert torch.equal(chunk, whole[40:101])


def test_neighbours_and_threads_change_no_bit_of_a_linear_layer(native):
    linear = nn.Linear(192, 300, dtype=native.dtype)
    x = make_qkv(90, 32, native.dtype)[:, :192].contiguous()
    before = torch.get_num_threads()
    with torch.inference_mode():
        packed = NativeLinear(linear, native)
        whole = packed(x)
        torch.set_num_threads(2)
        try:
            parts = [packed(x[first : first + size]) for first, size in ((0, 1), (1, 15), (16, 74))]
        finally:
            torch.set_num_threads(before)

    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_the_8_bit_layer_is_exact_but_for_its_rounding(native, rows):
    torch.manual_seed(rows)  # a number that lies just between two bytes would be off by a whole one
    linear = nn.Linear(192, 300, bias=False, dtype=native.dtype)
    x = make_qkv(rows, 32, native.dtype)[:, :192].contiguous()
    x[1:2] = 0
    with torch.inference_mode():
        weight = linear.weight.double()
        weight_scale = weight.abs().amax(1, keepdim=True) / 127
        x_scale = (x.double().abs().amax(1, keepdim=True) / 127).clamp(min=1e-300)
        exact = (x.double() / x_scale).round() @ (weight / weight_scale).round().T
        expected = exact * x_scale * weight_scale.T

        ours = NativeInt8Linear(linear, native)(x)

    # A number that lies between two bytes may go either way.
    off = (ours.double() - expected).abs().amax() / expected.abs().amax()
    assert off < (1e-4 if native.dtype is torch.float32 else 1e-2)
    assert (ours.double() - x.double() @ weight.T).abs().amax() < 0.02 * expected.abs().amax()


def test_neighbours_and_threads_change_no_bit_of_the_8_bit_layer(native):
    linear = nn.Linear(192, 300, bias=False, dtype=native.dtype)
    x = make_qkv(90, 32, native.dtype)[:, :192].contiguous()
    with torch.inference_mode():
        packed = NativeInt8Linear(linear, native)
        whole = packed(x)
        parts = [packed(x[first : first + size]) for first, size in ((0, 1), (1, 15), (16, 74))]
        bad = x.clone()
        bad[3, 5], bad[4, 7] = math.nan, math.inf
        spoiled = packed(bad)

    assert torch.equal(torch.cat(parts), whole)
    assert spoiled[3:5].isfinite().logical_not().all()
    assert torch.equal(spoiled[5:], whole[5:])


def test_an_engine_in_8_bits_stays_close(golden, tiny):
    def first_logprobs(quantization: str) -> list[dict[int, float]]:
        config = EngineConfig(
            tiny, device="cpu", dtype="float32", quantization=quantization,
            kv_cache_bytes=64 << 20, max_model_len=2816,
        )  # fmt: skip
        engine = build_engine(config, lambda done, total: None)
        sequences, _ = some_runs(golden, ["image_square", "text_user"])
        for sequence in sequences:
            sequence.params = SamplingParams(max_tokens=1, logprobs=20)
            engine.add(sequence)
        found = {}
        while engine.has_work:
            found |= {output.sequence_id: dict(output.logprobs.top) for output in engine.step()}
        return [found[sequence.id] for sequence in sequences]

    if load_native(torch.float32, from_checkpoint(tiny).text)[0] is None:
        pytest.skip("no native kernels here")
    for exact, rounded in zip(first_logprobs("none"), first_logprobs("int8"), strict=True):
        shared = exact.keys() & rounded.keys()
        assert len(shared) >= 15
        differences = [abs(exact[token] - rounded[token]) for token in shared]
        assert 0 < max(differences) < 0.1


def test_8_bits_without_the_native_kernels_are_refused(tiny):
    config = EngineConfig(tiny, device="cpu", kernels="eager", quantization="int8")

    with pytest.raises(CheckpointError, match="'int8' needs the native kernels"):
        build_engine(config, lambda done, total: None)


def test_writing_the_same_keys_twice_is_harmless(native):
    """A step that failed is run again, row by row."""
    cache = Cache(native, 96, 16)
    qkv = make_qkv(40, 96, native.dtype)
    table = cache.table(40)
    queries = cache.write(table, qkv, 0)
    once = cache.attend([table], [queries[-1:]], [40])

    cache.write(table, qkv[30:], 30)

    assert torch.equal(cache.attend([table], [queries[-1:]], [40]), once)


def test_a_row_that_is_not_finite_spoils_no_other(native):
    cache = Cache(native, 96, 16)
    good, bad = make_qkv(20, 96, native.dtype), make_qkv(20, 96, native.dtype, 1)
    bad[7] = math.nan
    tables = [cache.table(20), cache.table(20)]
    queries = [cache.write(t, qkv, 0) for t, qkv in zip(tables, (good, bad), strict=True)]
    alone = cache.attend(tables[:1], queries[:1], [20])

    attended = cache.attend(tables, queries, [20, 20])

    assert torch.equal(attended[:20], alone)
    assert attended[27:].isnan().all()


def test_in_bfloat16_too_a_request_is_answered_alike_in_any_company(golden, tiny, config):
    """Not only the tokens: every bit of their probabilities. Prompts are cut into chunks, found in
    the prefix cache, and computed again after a preemption."""
    found, why = load_native(torch.bfloat16, config.text)
    if found is None:
        pytest.skip(why)

    def run(engine: Engine, sequences: list[Sequence]) -> dict[str, list[tuple[int, float]]]:
        outputs: dict[str, list[tuple[int, float]]] = {s.id: [] for s in sequences}
        for sequence in sequences:
            engine.add(sequence)
        while engine.has_work:
            for output in engine.step():
                assert output.error is None
                outputs[output.sequence_id].append((output.token_id, output.logprobs.sampled))
        return outputs

    def sequences() -> list[Sequence]:
        made, _ = some_runs(golden, ["image_square", *["text_user"] * 7])
        for number, sequence in enumerate(made):
            sequence.token_ids += [300 + number] * (11 * number)
            sequence.num_prompt_tokens = len(sequence.token_ids)
            sequence.params = SamplingParams(
                max_tokens=24, temperature=1.0, seed=number, logprobs=0
            )
        return made

    def engine(**settings) -> Engine:
        chosen = {"kv_cache_bytes": 64 << 20, "max_model_len": 2816} | settings
        return build_engine(
            EngineConfig(tiny, device="cpu", dtype="bfloat16", kernels="native", **chosen),
            lambda done, total: None,
        )

    roomy, alone = engine(prefix_cache=False), {}
    for sequence in sequences():
        alone |= run(roomy, [sequence])
    together = engine()
    assert run(together, sequences()) == alone
    assert run(together, sequences()) == alone
    assert together.stats().num_blocks_cached > 0
    tight = engine(
        kv_cache_bytes=2816 * cache_bytes_per_token(config),
        max_num_batched_tokens=48,
        prompt_share=16,
    )
    assert run(tight, sequences()) == alone
    assert tight.stats().num_preemptions > 0


def cache_bytes_per_token(config) -> int:
    return 2 * 2 * config.text.num_layers * config.text.hidden_size


def test_without_a_compiler_there_are_none(monkeypatch, tmp_path, config):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(native_kernels, "_library", native_kernels._library.__wrapped__)

    found, why = load_native(torch.float32, config.text)

    assert found is None
    assert why


def test_a_compiler_that_fails_is_survived(monkeypatch, tmp_path, config, caplog):
    (tmp_path / "g++").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(native_kernels, "_library", native_kernels._library.__wrapped__)
    monkeypatch.setattr(native_kernels, "cache_directory", lambda: tmp_path)

    found, why = load_native(torch.float32, config.text)

    if "processor" not in why:
        assert "could not be built" in caplog.text
    assert found is None
    assert [file.name for file in tmp_path.iterdir()] == ["g++"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_they_are_built_once(monkeypatch, tmp_path, config):
    if load_native(torch.float32, config.text)[0] is None:
        pytest.skip("not on this processor")
    monkeypatch.setattr(native_kernels, "_library", native_kernels._library.__wrapped__)
    monkeypatch.setattr(native_kernels, "cache_directory", lambda: tmp_path)
    assert load_native(torch.float32, config.text)[0]
    (built,) = tmp_path.iterdir()
    before = built.stat().st_mtime_ns

    assert load_native(torch.float32, config.text)[0]

    assert [file.stat().st_mtime_ns for file in tmp_path.iterdir()] == [before]


def test_asked_for_where_they_cannot_be_had_they_are_refused(tiny):
    config = EngineConfig(tiny, device="cpu", dtype="float16", kernels="native")

    with pytest.raises(CheckpointError, match="native kernels"):
        build_engine(config, lambda done, total: None)
