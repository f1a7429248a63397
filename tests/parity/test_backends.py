"""Every way to run the decoder on a CPU gives the published tokens, in any arrangement."""

from itertools import product
from pathlib import Path

import pytest
import torch

from scoring.engine import Engine
from scoring.engine_builder import assemble, build_engine
from scoring.engine_config import EngineConfig
from scoring.kv_cache import KVCache
from scoring.model_runner import ModelRunner
from scoring.models.attention.compiled import CompiledBackend, paged_decode
from scoring.models.attention.cpu import CpuBackend
from scoring.models.attention.interface import AttentionBackend
from scoring.models.attention.sdpa import SdpaBackend
from scoring.models.kernels import EAGER, Kernels
from scoring.models.native_kernels import load_native

from .test_generation import generate, some_runs

# Both rope regimes, a picture and short texts; sixteen rows, or one after the other.
NAMES = ("cross_4096", "image_square", *["text_user"] * 14)
CHUNKS = {"one block": None, "whole": 8192}


def backend(config, name: str, block_size: int) -> tuple[AttentionBackend, Kernels]:
    if name == "sdpa":
        return SdpaBackend(block_size), EAGER
    if name == "compiled":  # the same arithmetic; what torch.compile makes of it: test_kernels
        return CompiledBackend(paged_decode, block_size), EAGER
    native, why = load_native(torch.float32, config.text)
    if native is None:
        pytest.skip(why)
    return CpuBackend(native, block_size), native.kernels(block_size)


def engine(
    model, config, attention: AttentionBackend, kernels: Kernels, chunk: int, prefix_cache: bool
) -> Engine:
    block_size = attention.block_size
    num_blocks = 16 * 1024 // block_size
    cache = KVCache(config, num_blocks, block_size, torch.float32, torch.device("cpu"))
    cache.data.fill_(torch.nan)
    runner = ModelRunner(
        model, cache, attention, feature_cache_bytes=4 << 20, max_num_seqs=16, kernels=kernels
    )
    engine_config = EngineConfig(
        Path("not", "read"),
        max_num_seqs=16,
        max_num_batched_tokens=chunk,
        prefix_cache=prefix_cache,
        prompt_share=chunk,
    )
    return assemble(engine_config, config, runner, num_blocks, block_size, num_blocks * block_size)


@pytest.mark.parametrize(
    ("name", "block_size", "chunk", "together", "prefix_cache"),
    [
        combination
        for number, combination in enumerate(
            product(("sdpa", "cpu"), (16, 64, 256), CHUNKS, (True, False), (True, False))
        )
        # One block of 16 is 256 steps for the long prompt: once for each backend is enough.
        if combination[1:3] != (16, "one block") or number % 4 == 0
    ]
    + [("compiled", 16, "whole", True, True), ("compiled", 256, "one block", False, False)],
)
def test_any_arrangement_gives_the_published_tokens(
    golden, model, config, name, block_size, chunk, together, prefix_cache
):
    attention, kernels = backend(config, name, block_size)
    e = engine(model, config, attention, kernels, CHUNKS[chunk] or block_size, prefix_cache)

    if together:
        sequences, expected = some_runs(golden, NAMES)
        assert generate(e, sequences) == expected
    else:
        for name in NAMES[:3]:
            sequences, expected = some_runs(golden, [name])
            assert generate(e, sequences) == expected


def test_the_native_engine_gives_the_published_tokens(golden, tiny, config):
    """Packed weights and native kernels, warmed up by sequences that leave nothing behind."""
    backend(config, "cpu", 16)
    e = build_engine(
        EngineConfig(tiny, device="cpu", dtype="float32", kv_cache_bytes=64 << 20),
        lambda done, total: None,
    )
    stats = e.stats()
    assert stats.num_blocks_free == stats.num_blocks

    for names in (("text_user",), ("image_square", "text_user"), NAMES):
        sequences, expected = some_runs(golden, names)
        assert generate(e, sequences) == expected
