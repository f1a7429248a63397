"""How a device's memory is given away."""

import pytest

from scoring.errors import CheckpointError
from scoring.memory_plan import MemoryPlan, StepMemory, check_weights, plan_memory

GIB = 1 << 30
STEP = StepMemory(prompts=2 * GIB, pictures=3 * GIB, graphs=GIB)


def plan(**changes) -> MemoryPlan:
    values = {
        "limit": 20 * GIB,
        "where": "on the GPU",
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
            "of 13.00 GiB on the GPU, weights take 8.00, a step 4.00 and picture features 1.00: "
            "the key-value cache has room for 0 tokens; max_model_len is not set",
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
    assert plan().lines == (
        "memory     8.00 GiB for weights",
        "memory +   7.00 GiB for keys and values: 14,080 tokens, up to 14,080 of one request, "
        "4 requests at once",
        "memory +   5.00 GiB for work: prompts 2.00 or pictures 3.00, graphs 1.00, picture "
        "features 1.00",
        "memory =  20.00 GiB of 20.00 on the GPU",
    )


def test_a_cache_that_was_asked_for_must_fit_beside_the_rest():
    with pytest.raises(CheckpointError, match=r"values 9.12.*: 22.12 of the 20.00 GiB.*too large"):
        plan(cache=9 * GIB)


def test_a_cache_may_be_kept_smaller_than_what_is_left():
    p = plan(max_cache=2 * GIB)

    assert p.cache == 2 * GIB
    assert p.max_model_len == 15 * 256


def test_weights_that_cannot_fit_are_refused_with_numbers_and_a_way_out():
    check_weights(4 << 30, "float32", 4, 16 * GIB, "on this machine")
    with pytest.raises(CheckpointError) as raised:
        check_weights(4 << 30, "float32", 4, 8 * GIB, "on this machine")

    assert str(raised.value) == (
        "the weights take 16.00 GiB in float32, and there are 8.00 on this machine; in bfloat16 "
        "they take 8.00"
    )
