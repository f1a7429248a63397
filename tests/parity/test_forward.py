"""The forward pass through the paged cache, against the published code's, in float32."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from model_config import ModelConfig
from scoring.batch import to_flat_batch
from scoring.block_manager import BlockManager
from scoring.kv_cache import KVCache
from scoring.model_runner import ModelRunner
from scoring.models.attention.sdpa import SdpaBackend
from scoring.models.phi3_vision import Phi3VisionForCausalLM
from scoring.scheduler import ScheduledRow
from scoring.sequence import Sequence
from scoring.weights import load_model

from .golden import IMAGE_CASES, TEXT_CASES, Golden

TOLERANCE, TOLERANCE_BF16 = 2e-5, 0.3
CHUNK = 512  # positions whose logits are computed at once


@dataclass(frozen=True)
class ForwardPass:
    """features: of all pictures one after the other. hidden: at every position, normed."""

    model: Phi3VisionForCausalLM
    features: Tensor | None
    hidden: Tensor

    def logits(self, positions: slice) -> np.ndarray:
        return self.model.logits(self.hidden[positions]).numpy()


@torch.inference_mode()
def forward(
    model: Phi3VisionForCausalLM, config: ModelConfig, sequence: Sequence, chunks: int = 1
) -> ForwardPass:
    """What ModelRunner.execute does with a row, up to the logits; in so many steps."""
    attention = SdpaBackend(16)
    num_tokens = len(sequence.token_ids)
    blocks = BlockManager(num_tokens // 16 + 2, 16)
    dtype = model.model.embed_tokens.weight.dtype
    cache = KVCache(config, blocks.num_blocks, 16, dtype, torch.device("cpu"))
    cache.data.fill_(torch.nan)  # what was never written must not be read
    runner = ModelRunner(model, cache, attention, feature_cache_bytes=1 << 30, max_num_seqs=1)
    assert blocks.grow(sequence, num_tokens)
    sequence.block_table.reverse()  # a block's place in the cache has nothing to do with its turn
    short_len = config.text.rope_scaling.original_max_position_embeddings
    sequence.long_rope = num_tokens > short_len
    bounds = np.linspace(0, num_tokens, chunks + 1, dtype=int).tolist()
    hidden = []
    for start, end in pairwise(bounds):
        row = ScheduledRow(sequence, start, end - start)
        batch = to_flat_batch([row], 16, torch.device("cpu"))
        embeddings = model.embed(batch.input_ids)
        runner._place_features(embeddings, [row])
        hidden.append(model(embeddings, batch, cache, attention))
    features = [runner.features.get(span.picture.digest) for span in sequence.images]
    return ForwardPass(model, torch.cat(features) if features else None, torch.cat(hidden))


def assert_close(ours: np.ndarray | Tensor, published: np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(np.asarray(ours), published, rtol=0, atol=atol)


@pytest.fixture(scope="module", params=[*TEXT_CASES, *IMAGE_CASES])
def case(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def ours(case: str, golden: Golden, model, config) -> ForwardPass:
    return forward(model, config, golden.sequence(case))


def test_the_last_logits_are_the_published_ones(case, golden, ours):
    published = golden.arrays(case)["last_logits"]

    logits = ours.logits(slice(-1, None))[0]

    assert logits.dtype == np.float32
    assert_close(logits, published, TOLERANCE)
    assert logits.argmax() == golden.json("cases")["cases"][case]["last_argmax"]


def test_the_hidden_states_are_the_published_ones(case, golden, ours):
    arrays = golden.arrays(case)

    assert_close(ours.hidden[arrays["hidden_positions"].tolist()], arrays["hidden"], TOLERANCE)


def test_the_likeliest_tokens_at_every_position_are_the_published_ones(case, golden, ours):
    arrays = golden.arrays(case)
    for start in range(0, len(arrays["input_ids"]), CHUNK):
        positions = slice(start, start + CHUNK)
        logits = ours.logits(positions)
        wide = logits.astype(np.float64)
        logsumexp = np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1)) + wide.max(-1)
        top5 = np.take_along_axis(logits, arrays["top5_ids"][positions], axis=-1)

        assert_close(top5, arrays["top5_values"][positions], TOLERANCE)
        assert_close(logsumexp, arrays["logsumexp"][positions], TOLERANCE)
        np.testing.assert_array_equal(logits.argmax(-1), arrays["top5_ids"][positions, 0])


@pytest.mark.parametrize("case", IMAGE_CASES, scope="module")
def test_the_image_features_are_the_published_ones(case, golden, ours):
    arrays = golden.arrays(case)

    assert len(ours.features) == (arrays["input_ids"] < 0).sum()
    positions = arrays["image_feature_positions"].tolist()
    assert_close(ours.features[positions], arrays["image_features"], TOLERANCE)


@pytest.mark.parametrize("case", ["text_4097", "image_strip", "two_images"])
def test_a_prompt_in_chunks_has_the_published_logits(case, golden, model, config):
    """Chunks end inside blocks and inside a picture's slots; positions before a chunk are read
    from the cache."""
    arrays = golden.arrays(case)

    chunked = forward(model, config, golden.sequence(case), chunks=7)

    assert_close(chunked.logits(slice(-1, None))[0], arrays["last_logits"], TOLERANCE)
    assert_close(chunked.hidden[arrays["hidden_positions"].tolist()], arrays["hidden"], TOLERANCE)


@pytest.fixture(scope="module")
def bf16_model(tiny, config) -> Phi3VisionForCausalLM:
    return load_model(tiny, config, torch.device("cpu"), torch.bfloat16, lambda done, total: None)


@pytest.mark.parametrize("case", ["text_user", "image_square"])
def test_bfloat16_stays_near_float32(case, golden, bf16_model, config):
    logits = forward(bf16_model, config, golden.sequence(case)).logits(slice(-1, None))[0]

    assert logits.dtype == np.float32
    assert_close(logits, golden.arrays(case)["last_logits"], TOLERANCE_BF16)
