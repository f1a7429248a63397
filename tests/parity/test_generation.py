"""Greedy runs through the whole engine, token by token against the published code.

`cross_4096` starts in the short rope regime and ends in the long one. There the published code
goes on with stale keys; the expected tokens are those of a full recomputation.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scoring.engine import Engine
from scoring.engine_builder import assemble, build_engine
from scoring.engine_config import EngineConfig
from scoring.engine_memory import cpu_cache_bytes
from scoring.errors import CheckpointError
from scoring.image_processor import HDPicture
from scoring.kv_cache import KVCache
from scoring.model_runner import ModelRunner
from scoring.models.attention.sdpa import SdpaBackend
from scoring.sequence import FinishReason, ImageSpan, SamplingParams, Sequence

from .golden import RUNS, Golden

Tokens = dict[str, list[int]]


@pytest.fixture
def make_engine(model, config) -> Callable[..., Engine]:
    """An engine around the tiny model; by default with room for everything."""

    def make(
        *,
        block_size: int = 16,
        num_tokens: int = 16 * 1024,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 2048,
        prefix_cache: bool = True,
        feature_cache_bytes: int = 4 << 20,
        max_crops: int = 34,
    ) -> Engine:
        num_blocks = num_tokens // block_size
        cache = KVCache(config, num_blocks, block_size, torch.float32, torch.device("cpu"))
        cache.data.fill_(torch.nan)  # what was never written must not be read
        attention = SdpaBackend(block_size)
        runner = ModelRunner(
            model,
            cache,
            attention,
            feature_cache_bytes=feature_cache_bytes,
            max_num_seqs=max_num_seqs,
        )
        engine_config = EngineConfig(
            Path("not", "read"),
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            prefix_cache=prefix_cache,
            max_crops=max_crops,
        )
        return assemble(
            engine_config, config, runner, num_blocks, block_size, num_blocks * block_size
        )

    return make


def generate(engine: Engine, sequences: Iterable[Sequence]) -> Tokens:
    """Run the sequences side by side to their ends; afterwards all blocks must be back."""
    tokens: Tokens = {}
    for sequence in sequences:
        tokens[sequence.id] = []
        engine.add(sequence)
    unfinished = set(tokens)
    num_steps = 0
    while engine.has_work:
        num_steps += 1
        assert num_steps < 1000, "no end in sight"
        for output in engine.step():
            assert output.sequence_id in unfinished
            assert output.token_id is not None, output.error
            tokens[output.sequence_id].append(output.token_id)
            if output.finish_reason is not None:
                assert output.finish_reason is FinishReason.LENGTH
                unfinished.remove(output.sequence_id)
    assert not unfinished
    assert_idle(engine)
    return tokens


def assert_idle(engine: Engine) -> None:
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks


def some_runs(golden: Golden, names: Iterable[str]) -> tuple[list[Sequence], Tokens]:
    """Runs to start, each with an id of its own, and what must come of them."""
    runs = [golden.run(name, f"{name}-{number}") for number, name in enumerate(names)]
    sequences = [sequence for sequence, _ in runs]
    return sequences, {sequence.id: expected for sequence, expected in runs}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("prefix_cache", [True, False], ids=["prefix_cache", "no_prefix_cache"])
def test_a_run_by_itself_gives_the_published_tokens(golden, make_engine, name, prefix_cache):
    sequences, expected = some_runs(golden, [name])

    assert generate(make_engine(prefix_cache=prefix_cache), sequences) == expected


def test_runs_one_after_the_other_give_the_published_tokens(golden, make_engine):
    engine = make_engine()
    for name in (*RUNS, *reversed(RUNS)):
        sequences, expected = some_runs(golden, [name])

        assert generate(engine, sequences) == expected


@pytest.mark.parametrize("names", [RUNS, tuple(reversed(RUNS)), ("cross_4096", *RUNS)], ids=str)
def test_runs_in_one_batch_give_the_published_tokens(golden, make_engine, names):
    """Short and long rope regimes, pictures and text side by side in every step."""
    sequences, expected = some_runs(golden, names)

    assert generate(make_engine(max_num_batched_tokens=16384), sequences) == expected


@pytest.mark.parametrize("max_num_batched_tokens", [96, 512])
@pytest.mark.parametrize("names", [*((name,) for name in RUNS), RUNS], ids="+".join)
def test_chunked_prefill_gives_the_published_tokens(
    golden, make_engine, names, max_num_batched_tokens
):
    """Chunks end inside blocks and inside a picture's slots, beside the decodes of others."""
    sequences, expected = some_runs(golden, names)

    engine = make_engine(max_num_batched_tokens=max_num_batched_tokens)

    assert generate(engine, sequences) == expected


@pytest.mark.parametrize("block_size", [16, 64, 256])
def test_blocks_of_any_size_give_the_published_tokens(golden, make_engine, block_size):
    sequences, expected = some_runs(golden, RUNS)

    engine = make_engine(block_size=block_size, max_num_batched_tokens=700)

    assert generate(engine, sequences) == expected


@pytest.mark.parametrize("prefix_cache", [True, False], ids=["prefix_cache", "no_prefix_cache"])
@pytest.mark.parametrize(
    ("names", "num_tokens"),
    [
        # A prompt of 4090 tokens takes 256 of 257 blocks, one of 16 tokens the last one: the
        # first of them to need another makes the newer give way.
        (("text_user", "cross_4096"), 257 * 16),
        (("cross_4096", "text_user"), 257 * 16),
        # 2524 tokens of a picture take 158 of 160 blocks.
        (("image_square", "text_user", "text_user"), 160 * 16),
        (("text_user", "text_user", "image_square"), 160 * 16),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_preempted_sequence_gives_the_same_tokens(
    golden, make_engine, names, num_tokens, prefix_cache
):
    sequences, expected = some_runs(golden, names)
    engine = make_engine(
        num_tokens=num_tokens, max_num_batched_tokens=8192, prefix_cache=prefix_cache
    )

    assert generate(engine, sequences) == expected
    assert engine.stats().num_preemptions > 0


@pytest.mark.parametrize("name", RUNS)
def test_a_second_identical_request_reads_the_first_ones_blocks(golden, make_engine, name):
    engine = make_engine()
    (first,), expected_first = some_runs(golden, [name])
    assert generate(engine, [first]) == expected_first
    assert first.num_cached == 0
    num_encoded = engine.stats().num_pictures_encoded

    second, expected = golden.run(name, "second")

    assert generate(engine, [second]) == {"second": expected}
    # All complete blocks before the last token; a prompt of 16 tokens has none.
    assert second.num_cached == (second.num_prompt_tokens - 1) // 16 * 16
    assert second.num_cached > 0 or name == "text_user"
    assert engine.stats().num_pictures_encoded == num_encoded


def test_without_a_prefix_cache_nothing_is_reused(golden, make_engine):
    engine = make_engine(prefix_cache=False)
    for sequence_id in ("first", "second"):
        sequence, expected = golden.run("image_square", sequence_id)

        assert generate(engine, [sequence]) == {sequence_id: expected}
        assert sequence.num_cached == 0
    assert engine.stats().num_blocks_cached == 0


def test_callers_with_different_salts_share_no_blocks(golden, make_engine):
    engine = make_engine()
    for salt in (b"alice", b"bob"):
        run, expected = golden.run("image_square")
        sequence = Sequence(salt.decode(), run.token_ids, run.params, run.images, salt)

        assert generate(engine, [sequence]) == {sequence.id: expected}
        assert sequence.num_cached == 0


def test_a_prefix_of_the_short_regime_never_serves_a_long_sequence(golden, make_engine):
    """Nor the other way round: the same tokens have other keys in the other regime."""
    token_ids = golden.arrays("text_4097")["input_ids"].tolist()
    params = SamplingParams(max_tokens=3)

    def prompts() -> dict[str, list[int]]:
        return {"short": token_ids[:3000], "long": token_ids + token_ids[1:200]}

    alone = {}
    for name, prompt in prompts().items():
        alone |= generate(make_engine(prefix_cache=False), [Sequence(name, prompt, params)])
    for order in (("short", "long"), ("long", "short")):
        engine = make_engine()
        for name in order:
            sequence = Sequence(name, prompts()[name], params)

            assert generate(engine, [sequence]) == {name: alone[name]}
            assert sequence.num_cached == 0
        again = Sequence("again", prompts()["long"], params)
        assert generate(engine, [again])["again"] == alone["long"]
        assert again.num_cached == (again.num_prompt_tokens - 1) // 16 * 16


def test_the_same_slots_with_another_picture_are_not_reused(golden, make_engine):
    """Both pictures take 2509 slots of the id -1; only the digest tells them apart."""
    run, expected = golden.run("image_square")
    (span,) = run.images
    # palette_256x256 is square as well.
    other = golden.picture("palette_256x256")
    assert other.num_tokens == span.picture.num_tokens
    engine = make_engine()
    impostor = Sequence("other", list(run.token_ids), run.params, (ImageSpan(other, span.start),))

    assert generate(engine, [impostor])["other"] != expected
    assert generate(engine, [run])["image_square"] == expected
    assert run.num_cached == 0  # the first block holds the first slots


def test_leaving_in_any_state_disturbs_nobody(golden, make_engine):
    """One sequence leaves while it waits, one in the middle of its prompt, one while it decodes."""
    (stays, waits, prefills, decodes), expected = some_runs(
        golden, ["text_user", "image_square", "image_square", "text_user"]
    )
    engine = make_engine(max_num_seqs=3, max_num_batched_tokens=64, num_tokens=4096)
    for sequence in (stays, decodes, prefills, waits):
        engine.add(sequence)
    tokens = [
        output.token_id
        for _ in range(4)
        for output in engine.step()
        if output.sequence_id == stays.id
    ]
    assert waits.num_computed == 0
    assert 0 < prefills.num_computed < prefills.num_prompt_tokens
    assert decodes.num_output_tokens > 0

    for sequence in (waits, prefills, decodes):
        engine.abort(sequence.id)
    while engine.has_work:
        outputs = engine.step()
        assert {output.sequence_id for output in outputs} <= {stays.id}
        tokens += [output.token_id for output in outputs]

    assert tokens == expected[stays.id]
    assert_idle(engine)


def test_a_sampled_run_is_the_same_alone_and_among_others(golden, make_engine):
    def sampled(sequence_id: str, seed: int) -> Sequence:
        run, _ = golden.run("text_user")
        params = SamplingParams(max_tokens=12, temperature=1.0, top_p=0.9, seed=seed)
        return Sequence(sequence_id, run.token_ids, params)

    alone = generate(make_engine(), [sampled("a", 1)])["a"]
    engine = make_engine(max_num_batched_tokens=96)
    crowd = [golden.run("image_square")[0], sampled("b", 2), sampled("a", 1), sampled("c", 3)]
    tokens = generate(engine, crowd)

    assert tokens["a"] == alone
    assert len({tuple(tokens[sequence_id]) for sequence_id in "abc"}) == 3
    assert tokens["image_square"] == golden.run("image_square")[1]


def test_a_picture_larger_than_the_feature_cache_is_still_served(golden, make_engine):
    run, expected = golden.run("image_square")
    engine = make_engine(max_num_batched_tokens=1500, feature_cache_bytes=1000)

    assert generate(engine, [run]) == {run.id: expected}
    assert engine.stats().num_pictures_encoded == 1  # kept for its later chunks all the same


@pytest.mark.parametrize("max_crops", [1, 7])
def test_a_picture_encoded_in_portions_gives_the_same_tokens(golden, make_engine, max_crops):
    run, expected = golden.run("image_square")
    text, expected_text = golden.run("text_user")
    engine = make_engine(max_crops=max_crops)

    assert generate(engine, [text, run]) == {run.id: expected, text.id: expected_text}
    assert engine.stats().num_pictures_encoded == 1


def test_pictures_that_push_each_other_out_of_the_feature_cache_are_still_served(
    golden, make_engine
):
    """Side by side, each loses its features while its own prompt is in the middle."""
    run, expected = golden.run("image_square")
    (span,) = run.images
    picture = golden.picture("palette_256x256")
    other = Sequence("other", list(run.token_ids), run.params, (ImageSpan(picture, span.start),))
    alone = generate(make_engine(), [replace(other, token_ids=list(run.token_ids))])["other"]
    engine = make_engine(max_num_batched_tokens=1500, feature_cache_bytes=1000)

    assert generate(engine, [run, other]) == {run.id: expected, "other": alone}


def test_leaving_while_a_picture_is_encoded_disturbs_nobody(golden, make_engine):
    """What has been encoded of it serves the next one with the same picture."""
    engine = make_engine(max_crops=5)
    leaver, _ = golden.run("image_square", "leaver")
    engine.add(leaver)
    assert engine.step() == []
    engine.abort(leaver.id)
    sequences, expected = some_runs(golden, ["image_square", "image_square"])

    assert generate(engine, sequences) == expected
    assert engine.stats().num_pictures_encoded == 1


def test_a_neighbour_that_fails_while_a_picture_is_encoded_disturbs_nobody(golden, make_engine):
    """The step that fails has encoded its crops already; its rows are then run singly."""
    engine = make_engine(max_crops=5)
    run, expected = golden.run("image_square")
    # A picture with fewer slots than it has features passes the door and fails on the way.
    liar = HDPicture(np.zeros((336, 336, 3), dtype=np.uint8), b"liar", num_tokens=5)
    params = SamplingParams(max_tokens=5)
    bad = Sequence("bad", [1, *[-1] * 5, 2], params, (ImageSpan(liar, 1),))
    engine.add(bad)
    engine.add(run)
    tokens = []
    while engine.has_work:
        for output in engine.step():
            if output.sequence_id == "bad":
                assert output.finish_reason is FinishReason.ERROR
            else:
                tokens.append(output.token_id)

    assert tokens == expected
    assert_idle(engine)


def test_the_engine_built_from_a_directory_gives_the_published_tokens(golden, tiny):
    reports: list[tuple[int, int]] = []
    engine = build_engine(
        EngineConfig(tiny, device="cpu", dtype="float32", kv_cache_bytes=32 << 20),
        lambda done, total: reports.append((done, total)),
    )
    sequences, expected = some_runs(golden, RUNS)

    # Whatever it ran to warm up has left nothing behind.
    assert_idle(engine)
    assert engine.stats().num_blocks_cached == 0
    assert engine.limits.vocab_size == 32064
    # 2 layers of a key and a value of 192 float32s each: 3 KiB for a token.
    assert engine.limits.max_model_len == (32 << 20) // 3072 // 16 * 16
    assert reports[-1][0] == reports[-1][1] > 0
    assert generate(engine, sequences) == expected


def test_auto_on_a_cpu_is_float32(tiny):
    """A block of 16 tokens of float32 takes 48 KiB."""
    config = EngineConfig(tiny, dtype="auto", device="cpu", kv_cache_bytes=10 * 48 << 10)

    engine = build_engine(config, lambda done, total: None)

    assert engine.stats().num_blocks == 10
    assert engine.limits.max_model_len == 160


def test_the_cache_is_no_larger_than_all_seats_can_fill(tiny):
    engine = build_engine(
        EngineConfig(tiny, device="cpu", max_num_seqs=1, max_num_batched_tokens=64),
        lambda done, total: None,
    )

    assert engine.limits.max_model_len == 131072
    assert engine.stats().num_blocks == 131072 // 16


def test_a_context_beyond_the_models_is_refused(tiny):
    config = EngineConfig(tiny, device="cpu", max_model_len=131073)

    with pytest.raises(CheckpointError, match=r"max_model_len is 131073; .* 131072"):
        build_engine(config, lambda done, total: None)


@pytest.mark.parametrize("max_model_len", [None, 4096])
def test_a_cache_too_small_for_the_context_is_refused(tiny, max_model_len):
    num_bytes = 1000 if max_model_len is None else 4095 * 3072
    config = EngineConfig(
        tiny, device="cpu", dtype="float32", max_model_len=max_model_len, kv_cache_bytes=num_bytes
    )

    with pytest.raises(CheckpointError, match="max_model_len is"):
        build_engine(config, lambda done, total: None)


@pytest.mark.parametrize("too_many", [1, 2])
def test_too_few_gpus_are_counted(tiny, too_many):
    there = torch.cuda.device_count()
    config = EngineConfig(tiny, device="cuda", data_parallel=there + too_many)

    with pytest.raises(CheckpointError, match=rf"is {there + too_many}, .* {there} CUDA devices"):
        build_engine(config, lambda done, total: None)


@pytest.mark.parametrize(("data_parallel", "share"), [(1, 5), (2, 2), (9, 1)])
def test_engines_on_one_cpu_share_its_cores(tiny, data_parallel, share):
    config = EngineConfig(tiny, device="cpu", kv_cache_bytes=32 << 20, data_parallel=data_parallel)
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        build_engine(config, lambda done, total: None)
        assert torch.get_num_threads() == share
    finally:
        torch.set_num_threads(before)


def test_engines_on_one_cpu_share_its_memory():
    """A token of the genuine model takes 768 KiB, in float32."""
    assert [cpu_cache_bytes(left, 768 << 10, 1) for left in (1 << 30, 1 << 40)] == [
        (1 << 30) * 4 // 10,
        4 << 30,
    ]
    assert cpu_cache_bytes(1 << 40, 768 << 10, 4) == 1 << 30
    small = [cpu_cache_bytes(1 << 30, 1, n) for n in (1, 4)]
    assert small == [131072, 131072]  # one longest context's: less would be no use
