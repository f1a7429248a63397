"""Every way to run the decoder on a CPU gives the published tokens, in any arrangement."""

from itertools import product
from pathlib import Path

import pytest
import torch

from scoring.engine import Engine, assemble, build_engine
from scoring.engine_config import EngineConfig
from scoring.kv_cache import KVCache
from scoring.model_runner import ModelRunner
from scoring.models.attention import AttentionBackend, CpuBackend, SdpaBackend
from scoring.models.kernels import EAGER

from .test_generation import generate, some_runs

BACKENDS = {"sdpa": SdpaBackend, "cpu": lambda block_size: CpuBackend(EAGER, block_size)}
# Both rope regimes, a picture and short texts; sixteen rows, or one after the other.
NAMES = ("cross_4096", "image_square", *["text_user"] * 14)
CHUNKS = {"one block": None, "whole": 8192}


def engine(model, config, attention: AttentionBackend, chunk: int, prefix_cache: bool) -> Engine:
    block_size = attention.block_size
    num_blocks = 16 * 1024 // block_size
    cache = KVCache(config, num_blocks, block_size, torch.float32, torch.device("cpu"))
    cache.data.fill_(torch.nan)
    runner = ModelRunner(model, cache, attention, feature_cache_bytes=4 << 20)
    engine_config = EngineConfig(
        Path("not", "read"),
        max_num_seqs=16,
        max_num_batched_tokens=chunk,
        prefix_cache=prefix_cache,
        max_prefill_tokens_while_decoding=chunk,
    )
    return assemble(engine_config, config, runner, num_blocks, block_size, num_blocks * block_size)


@pytest.mark.parametrize(
    ("backend", "block_size", "chunk", "together", "prefix_cache"),
    [
        combination
        for number, combination in enumerate(
            product(BACKENDS, (16, 64, 256), CHUNKS, (True, False), (True, False))
        )
        # One block of 16 is 256 steps for the long prompt: once for each backend is enough.
        if combination[1:3] != (16, "one block") or number % 4 == 0
    ],
)
def test_any_arrangement_gives_the_published_tokens(
    golden, model, config, backend, block_size, chunk, together, prefix_cache
):
    attention = BACKENDS[backend](block_size)
    e = engine(model, config, attention, CHUNKS[chunk] or block_size, prefix_cache)

    if together:
        sequences, expected = some_runs(golden, NAMES)
        assert generate(e, sequences) == expected
    else:
        for name in NAMES[:3]:
            sequences, expected = some_runs(golden, [name])
            assert generate(e, sequences) == expected


# torch's compiler imports a part of torch that torch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_the_compiled_engine_gives_the_published_tokens(golden, tiny):
    """Packed weights and compiled kernels, warmed up by sequences that leave nothing behind."""
    e = build_engine(
        EngineConfig(tiny, device="cpu", dtype="float32", compile="on", kv_cache_bytes=64 << 20),
        lambda done, total: None,
    )
    stats = e.stats()
    assert stats.num_blocks_free == stats.num_blocks

    for names in (("text_user",), ("image_square", "text_user"), NAMES):
        sequences, expected = some_runs(golden, names)
        assert generate(e, sequences) == expected
