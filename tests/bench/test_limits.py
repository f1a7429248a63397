"""The least that steps read and compute, by hand, and fractions of it from answers with known
times."""

import json

import pytest

from benchmark.load.limits import DeviceRates, ModelSize, ModelSizeError, of_limit
from benchmark.load.summary import summarize

from .test_summary import answered

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}
# Queries and output 64 × 64 each, keys and values 64 × 32 each; three matrices of 64 × 128.
IN_LAYERS = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
OUTPUT = 1000 * 64
RATES = DeviceRates(bandwidth=1e6, flops=1e9, source="given")


def write(directory, **changes):
    kept = {name: value for name, value in {**CONFIG, **changes}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(kept))
    return directory


def test_a_decode_step_reads_weights_and_its_rows_keys_and_values(tmp_path):
    size = ModelSize.of_config(write(tmp_path), None)

    assert size.weights == IN_LAYERS + OUTPUT
    assert size.kv_bytes == 2 * 2 * 32 * 2  # layers, keys and values, width, bytes
    assert size.step_bytes(3, 10) == (IN_LAYERS + OUTPUT) * 2 + 3 * 10 * 256


def test_a_prompt_computes_its_layers_for_every_token_and_the_output_once(tmp_path):
    size = ModelSize.of_config(write(tmp_path), None)
    pair = 4 * 64 * 2

    assert size.prompt_flops(10, 0) == 2 * IN_LAYERS * 10 + pair * 55 + 2 * OUTPUT
    assert size.prompt_flops(10, 4) == 2 * IN_LAYERS * 6 + pair * (6 * 4 + 21) + 2 * OUTPUT


def test_a_decoder_inside_a_larger_config_and_its_own_head_size_count(tmp_path):
    nested = {"text_config": {**CONFIG, "head_dim": 32}, "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(nested))

    size = ModelSize.of_config(tmp_path, 1.0)

    assert size.bytes_per_param == 1.0
    assert size.weights == 2 * (2 * 64 * 128 + 2 * 64 * 64 + 3 * 64 * 128) + OUTPUT


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"torch_dtype": None}, "--bytes-per-param"),
        ({"num_local_experts": 8}, "experts"),
    ],
    ids=str,
)
def test_what_cannot_be_known_is_said(tmp_path, changes, why):
    with pytest.raises(ModelSizeError, match=why):
        ModelSize.of_config(write(tmp_path, **changes), None)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ModelSizeError, match="cannot be read"):
        ModelSize.of_config(tmp_path, None)


def test_fractions_are_the_least_time_over_the_measured():
    """1,000 parameters in 2 bytes: 2 ms to read at 1 MB/s. A token every 10 ms is a fifth of that.
    A prompt of 50 tokens: 0.1 ms at 1 Gflop/s, of the 100 ms that it took; the 30 cached of another
    cost nothing."""
    size = ModelSize.of_params(1000, 2)
    times = [0.1 + 0.01 * step for step in range(5)]
    answers = [
        answered(float(start), *times, has_usage=True, num_prompt_tokens=50, num_cached_tokens=30)
        for start in range(3)
    ]
    for answer in answers[:2]:
        answer.num_cached_tokens = 0
    found = of_limit(answers, summarize(answers), size, RATES)

    assert found.decode == pytest.approx(0.2)
    assert found.prefill == pytest.approx(50 * 2 * 1000 / 1e9 / 0.1)
    assert found.notes == []


def test_rows_that_decode_together_share_the_weights_but_not_the_keys(tmp_path):
    size = ModelSize.of_config(write(tmp_path), None)
    tokens = {"has_usage": True, "num_prompt_tokens": 20}
    times = [0.1 + 0.1 * step for step in range(11)]
    answers = [answered(0.0, *times, **tokens) for _ in range(4)]
    found = of_limit(answers, summarize(answers), size, RATES)

    num_rows = 4 * 1.0 / 1.1  # on average: for a tenth of a second all four waited
    least = ((IN_LAYERS + OUTPUT) * 2 + num_rows * (20 + 11 / 2) * 256) / 1e6
    assert found.decode == pytest.approx(least / 0.1)


@pytest.mark.parametrize(
    ("size", "rates", "note"),
    [
        (None, RATES, "the model's size was not given"),
        (ModelSize.of_params(1e3, 2), DeviceRates(None, None, "unknown: far away"), "far away"),
        (ModelSize.of_params(1e3, 2), RATES, "no answer had two tokens"),
        (ModelSize.of_params(1e3, 2), RATES, "no stream told how many tokens"),
    ],
)
def test_what_is_unknown_is_none_and_says_why(size, rates, note):
    answers = [answered(0.0, 1.0)]
    found = of_limit(answers, summarize(answers), size, rates)

    assert (found.decode, found.prefill) == (None, None)
    assert any(note in said for said in found.notes)


def test_answers_in_one_piece_have_no_time_per_token():
    """It was said that no answer had two tokens."""
    answers = [answered(0.0, 1.0, num_tokens=8)]
    found = of_limit(answers, summarize(answers), ModelSize.of_params(1e3, 2), RATES)

    assert found.decode is None
    assert "decode unknown: answers came in one piece" in found.notes


def test_more_than_the_limit_is_pointed_out():
    size = ModelSize.of_params(1e9, 2)
    answers = [answered(0.0, 0.1, 0.2, has_usage=True, num_prompt_tokens=9)]
    found = of_limit(answers, summarize(answers), size, RATES)

    assert found.decode is not None
    assert found.decode > 1
    assert any("more than the limit" in said for said in found.notes)
