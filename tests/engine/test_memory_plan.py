"""How a device's memory is given away."""

import pytest

from scoring.errors import CheckpointError
from scoring.memory_plan import MemoryPlan, StepMemory, plan_memory

GIB = 1 << 30
STEP = StepMemory(prompts=2 * GIB, pictures=3 * GIB, graphs=GIB)


def plan(**changes) -> MemoryPlan:
    values = {
        "limit": 20 * GIB,
        "weights": 8 * GIB,
        "step": STEP,
        "features": GIB,
        "block_bytes": GIB // 8,
        "block_size": 256,
        "max_num_seqs": 4,
        "context": 131072,
        "max_model_len": None,
        "cache": None,
    }
    return plan_memory(**(values | changes))


def test_the_cache_gets_what_weights_a_step_and_features_leave():
    p = plan()

    # 20 - 8 - (the larger of 2 and 3) - 1 - 1 = 7 GiB are 56 blocks, of which one is spare.
    assert (p.num_blocks, p.cache) == (55, 7 * GIB)
    assert p.weights + p.step.total + p.features + p.cache <= p.limit


def test_the_longest_request_is_what_fits():
    assert plan().max_model_len == 55 * 256
    assert plan(max_model_len=5000).max_model_len == 5000
    assert plan(limit=200 * GIB).max_model_len == 131072


def test_no_more_blocks_than_all_sequences_can_use():
    assert plan(limit=200 * GIB, context=1024).num_blocks == 4 * 4


def test_a_cache_of_a_given_size_is_taken_at_its_word():
    assert plan(cache=GIB).num_blocks == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"limit": 13 * GIB},
            "of 13.00 GiB, weights take 8.00, a step 4.00 and picture features 1.00: the key-value "
            "cache has room for 0 tokens; max_model_len is not set",
        ),
        (
            {"max_model_len": 131072},
            "the key-value cache has room for 14080 tokens; max_model_len is 131072",
        ),
        (
            {"cache": GIB, "max_model_len": 4096},
            "kv_cache is 1.00 GiB: the key-value cache has room",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(changes, said):
    with pytest.raises(CheckpointError) as raised:
        plan(**changes)

    assert said in str(raised.value)


def test_the_plan_says_what_goes_where_and_what_it_allows():
    assert str(plan()) == (
        "memory: weights 8.00 + a step 4.00 (prompts 2.00 or pictures 3.00, graphs 1.00) + "
        "picture features 1.00 + keys and values 7.00 = 20.00 of 20.00 GiB; "
        "room for 14,080 tokens, up to 14,080 of one request"
    )
