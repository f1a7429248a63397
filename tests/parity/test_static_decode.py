"""The decode step over buffers that never move gives what the plain step gives, to the bit."""

import random
from pathlib import Path

import pytest
import torch

from scoring.block_manager import BlockManager
from scoring.engine_builder import assemble
from scoring.engine_config import EngineConfig
from scoring.kv_cache import KVCache
from scoring.model_runner import ModelRunner
from scoring.models.attention.cpu import CpuBackend
from scoring.models.native_kernels import load_native
from scoring.models.packed_linear import pack_linears
from scoring.scheduler import ScheduledRow, Scheduler
from scoring.sequence import PENDING, SamplingParams, Sequence
from scoring.static_decode import buckets
from scoring.weights import load_model

from ..engine.stand_in_graph import StandInGraph
from .test_generation import generate, some_runs

BLOCK_SIZE, NUM_BLOCKS, MAX_SEQS, MAX_LEN = 16, 13, 6, 160
SHORT_ROPE_LEN = 40


@pytest.fixture(scope="module")
def native(config):
    """Its sums do not depend on how many rows there are, padding included."""
    native, why = load_native(torch.float32, config.text)
    if native is None:
        pytest.skip(why)
    return native


@pytest.fixture(scope="module")
def packed(tiny, config, native):
    """The tiny model on linear layers of that kind."""
    model = load_model(tiny, config, torch.device("cpu"), torch.float32, lambda done, total: None)
    pack_linears(model, native)
    return model


@pytest.fixture
def make_runner(packed, config, native):
    def make(num_blocks: int = NUM_BLOCKS, max_num_seqs: int = MAX_SEQS) -> ModelRunner:
        cache = KVCache(config, num_blocks, BLOCK_SIZE, torch.float32, torch.device("cpu"))
        # What was never written must not be read; but for the spare block, which is all zeros.
        cache.data[:, :, : num_blocks * BLOCK_SIZE] = torch.nan
        return ModelRunner(
            packed,
            cache,
            CpuBackend(native, BLOCK_SIZE),
            feature_cache_bytes=1 << 20,
            max_num_seqs=max_num_seqs,
            kernels=native.kernels(BLOCK_SIZE),
        )

    return make


def random_sequence(rng: random.Random, name: str) -> Sequence:
    """Greedy or drawn, with all that changes logits; prompts of one block to several."""
    prompt = [rng.randrange(32000) for _ in range(rng.randrange(1, 60))]
    params = SamplingParams(
        max_tokens=rng.randrange(5, 60),
        temperature=rng.choice((0.0, 0.0, 0.8)),
        top_p=rng.choice((1.0, 0.9)),
        top_k=rng.choice((0, 0, 7)),
        frequency_penalty=rng.choice((0.0, 0.5)),
        logit_bias=rng.choice(((), ((5, 3.0),))),
        logprobs=rng.choice((None, 0, 3)),
        seed=rng.randrange(1000),
    )
    return Sequence(name, prompt, params)


def assert_same_blocks(runner: ModelRunner, other: ModelRunner) -> None:
    """Of all blocks that sequences get: padding has touched none of them."""
    ours, theirs = (r._cache.data[:, :, : NUM_BLOCKS * BLOCK_SIZE] for r in (runner, other))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_two_hundred_steps_of_comers_and_leavers_equal_the_plain_steps(make_runner):
    plain, static = make_runner(), make_runner()
    static.capture(StandInGraph, MAX_LEN)
    scheduler = Scheduler(
        BlockManager(NUM_BLOCKS, BLOCK_SIZE),
        max_num_seqs=MAX_SEQS,
        max_num_batched_tokens=64,
        max_model_len=MAX_LEN,
        short_rope_len=SHORT_ROPE_LEN,
    )
    rng = random.Random(3)
    running: dict[str, Sequence] = {}
    replays, num_rows = 0, set()
    for number in range(2000):
        if len(running) < MAX_SEQS and rng.random() < 0.15:
            running[str(number)] = random_sequence(rng, str(number))
            scheduler.add(running[str(number)])
        elif running and rng.random() < 0.02:
            scheduler.abort(running.pop(rng.choice(sorted(running))))
        rows = scheduler.schedule()
        if not rows:
            continue
        seen = StandInGraph.num_replays
        expected, launched = plain.launch(rows), static.launch(rows)
        was_replayed = StandInGraph.num_replays > seen
        replays += was_replayed
        num_rows |= {len(rows)} if was_replayed else set()

        assert_same_blocks(static, plain)
        if was_replayed:
            buffers = static._static
            padding = buffers._tables[len(rows) : buffers._bucket(len(rows)), 0]
            assert (padding == NUM_BLOCKS).all()  # nor do they read another's block
        if expected.logits is not None:
            assert torch.equal(launched.logits, expected.logits)
        sampled = launched.sample().collect()
        assert sampled == expected.sample().collect()

        scheduler.advance(rows)
        for output in scheduler.update(rows, sampled):
            if output.finish_reason is not None:
                del running[output.sequence_id]
        if replays >= 200:
            break
    assert replays >= 200
    assert len(num_rows) >= 5
    assert scheduler.num_preemptions > 0


def test_captured_steps_that_overlap_give_the_published_tokens(golden, config, make_runner):
    """Both rope regimes, a picture, and texts: the crossing one gives all its blocks back while its
    newest token is unknown."""
    num_blocks = 640
    runner = make_runner(num_blocks, 16)
    runner.capture(StandInGraph, num_blocks * BLOCK_SIZE)
    engine_config = EngineConfig(Path("not", "read"), max_num_seqs=16, max_num_batched_tokens=8192)
    engine = assemble(
        engine_config, config, runner, num_blocks, BLOCK_SIZE, num_blocks * BLOCK_SIZE, overlap=True
    )

    sequences, expected = some_runs(golden, ("cross_4096", "image_square", *["text_user"] * 3))

    assert generate(engine, sequences) == expected


def test_all_that_changes_logits_works_one_step_late(config, make_runner):
    """Penalties count, and log-probabilities belong to, tokens that were unknown at the launch."""

    def outputs(*, ahead: bool) -> dict[str, list[tuple]]:
        runner = make_runner(64)
        if ahead:
            runner.capture(StandInGraph, MAX_LEN)
        engine = assemble(
            EngineConfig(Path("not", "read"), max_num_seqs=MAX_SEQS),
            config,
            runner,
            64,
            BLOCK_SIZE,
            MAX_LEN,
            overlap=ahead,
        )
        rng = random.Random(8)
        said: dict[str, list[tuple]] = {str(number): [] for number in range(40)}
        for name in said:
            engine.add(random_sequence(rng, name))
        while engine.has_work:
            for output in engine.step():
                result = (output.token_id, output.finish_reason, output.logprobs)
                said[output.sequence_id].append(result)
        return said

    assert outputs(ahead=True) == outputs(ahead=False)


def test_a_step_that_fails_on_its_way_to_the_buffers_leaves_no_wrong_blocks_there(make_runner):
    """It got as far as the first row; the next step must not take that row's blocks for there."""
    plain, static = make_runner(), make_runner()
    static.capture(StandInGraph, MAX_LEN)
    sequence = Sequence("good", list(range(5, 40)), SamplingParams(max_tokens=9))
    sequence.block_table = [7, 2, 9]
    for runner in (plain, static):
        runner.launch([ScheduledRow(sequence, 0, 34)])
    decode = ScheduledRow(sequence, 34, 1)
    # Its newest token is unknown, and no step has sampled it.
    broken = Sequence("broken", [1, PENDING], SamplingParams(max_tokens=9))
    broken.block_table = [4]
    with pytest.raises(KeyError):
        static.launch([decode, ScheduledRow(broken, 1, 1)])

    assert torch.equal(static.launch([decode]).logits, plain.launch([decode]).logits)


@pytest.mark.parametrize("max_rows", [1, 3, 8, 32, 100, 256])
def test_a_bucket_fits_every_number_of_rows_with_little_padding(max_rows):
    sizes = buckets(max_rows)

    assert sizes == sorted(set(sizes))
    assert sizes[-1] == max_rows
    for rows in range(1, max_rows + 1):
        bucket = next(size for size in sizes if size >= rows)
        assert bucket - rows < max(8, rows)


def test_the_stand_in_notices_an_input_that_has_moved():
    state = {"x": torch.ones(3)}
    graph = StandInGraph(lambda: state["x"].add_(1))
    graph.replay()
    kept, state["x"] = state["x"], torch.ones(3)

    with pytest.raises(AssertionError, match="captured as"):
        graph.replay()
    assert kept.tolist() == [3, 3, 3]


def test_the_stand_in_notices_a_shape_that_has_changed():
    buffer, size = torch.ones(8), [4]
    graph = StandInGraph(lambda: buffer[: size[0]].add_(1))
    size[0] = 5

    with pytest.raises(AssertionError, match="captured as"):
        graph.replay()
