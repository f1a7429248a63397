"""Blocks: whose they are, who shares them, and in which order they are given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.block_manager import BlockManager
from scoring.sequence import Sequence

from .scripted import assert_accounted, make_picture, make_sequence


def compute(blocks: BlockManager, sequence: Sequence) -> None:
    """All of a sequence's tokens, as a step that ran them would leave it."""
    assert blocks.grow(sequence, len(sequence.token_ids))
    sequence.num_computed = len(sequence.token_ids)
    blocks.name_complete_blocks(sequence)


def computed(blocks: BlockManager, sequence: Sequence) -> Sequence:
    blocks.take_prefix(sequence)
    compute(blocks, sequence)
    return sequence


def num_reused(blocks: BlockManager, sequence: Sequence) -> int:
    """How many blocks the sequence would find in the cache."""
    blocks.take_prefix(sequence)
    found = len(sequence.block_table)
    blocks.release(sequence)
    return found


def test_a_sequence_gets_blocks_as_its_tokens_need_them():
    blocks, sequence = BlockManager(4, 4), make_sequence(prompt=range(16))

    assert blocks.grow(sequence, 1)
    assert (len(sequence.block_table), blocks.num_free) == (1, 3)
    assert blocks.grow(sequence, 4)
    assert (len(sequence.block_table), blocks.num_free) == (1, 3)
    assert blocks.grow(sequence, 13)
    assert (len(set(sequence.block_table)), blocks.num_free) == (4, 0)


def test_too_few_blocks_is_an_answer_and_takes_nothing():
    blocks, sequence = BlockManager(3, 4), make_sequence(prompt=range(16))
    assert blocks.grow(sequence, 4)

    assert not blocks.grow(sequence, 13)
    assert (len(sequence.block_table), blocks.num_free) == (1, 2)
    assert blocks.grow(sequence, 12)


def test_a_sequence_with_the_same_beginning_takes_the_complete_blocks_over():
    blocks = BlockManager(8, 4)
    first = computed(blocks, make_sequence("a", range(10)))
    second = make_sequence("b", [*range(8), 99, 99])

    blocks.take_prefix(second)

    assert second.block_table == first.block_table[:2]
    assert second.num_computed == 8
    assert_accounted(blocks, [first, second])


@pytest.mark.parametrize(("num_tokens", "expected"), [(4, 0), (5, 1), (8, 1), (9, 2), (12, 2)])
def test_the_last_token_is_never_taken_from_the_cache(num_tokens, expected):
    """Its logits are wanted, so it must be computed."""
    blocks = BlockManager(8, 4)
    blocks.release(computed(blocks, make_sequence("a", range(12))))

    sequence = make_sequence("b", range(num_tokens))
    blocks.take_prefix(sequence)

    assert len(sequence.block_table) == expected
    assert sequence.num_computed == 4 * expected < num_tokens


def test_an_incomplete_block_is_not_reused():
    blocks = BlockManager(8, 4)
    sequence = make_sequence("a", range(12))
    assert blocks.grow(sequence, 12)
    sequence.num_computed = 7
    blocks.name_complete_blocks(sequence)
    blocks.release(sequence)

    assert num_reused(blocks, make_sequence("b", range(12))) == 1


def test_the_same_tokens_after_another_beginning_are_not_reused():
    blocks = BlockManager(8, 4)
    blocks.release(computed(blocks, make_sequence("a", [1, 1, 1, 1, 5, 5, 5, 5, 0])))

    assert num_reused(blocks, make_sequence("b", [2, 2, 2, 2, 5, 5, 5, 5, 0])) == 0
    assert num_reused(blocks, make_sequence("c", [5, 5, 5, 5, 0])) == 0
    assert num_reused(blocks, make_sequence("d", [1, 1, 1, 1, 6, 5, 5, 5, 0])) == 1


def test_the_order_of_tokens_matters():
    blocks = BlockManager(8, 4)
    blocks.release(computed(blocks, make_sequence("a", [1, 2, 3, 4, 0])))

    assert num_reused(blocks, make_sequence("b", [4, 3, 2, 1, 0])) == 0


def test_a_rope_regime_shares_nothing_with_the_other():
    blocks = BlockManager(8, 4)
    blocks.release(computed(blocks, make_sequence("a", range(9))))
    long = make_sequence("b", range(9))
    long.long_rope = True

    assert num_reused(blocks, long) == 0
    blocks.release(computed(blocks, long))
    assert num_reused(blocks, long) == 2
    assert num_reused(blocks, make_sequence("c", range(9))) == 2


def test_callers_with_different_salts_share_nothing():
    blocks = BlockManager(8, 4)
    blocks.release(computed(blocks, make_sequence("a", range(9), salt=b"alice")))

    assert num_reused(blocks, make_sequence("b", range(9), salt=b"alice")) == 2
    assert num_reused(blocks, make_sequence("c", range(9), salt=b"bob")) == 0
    assert num_reused(blocks, make_sequence("d", range(9))) == 0


def test_another_picture_in_the_same_slots_shares_only_what_lies_before_it():
    blocks = BlockManager(16, 4)
    prompt = [1, 2, 3, 4, 5, *[-1] * 6, 6, 7]  # the picture's slots: 5 … 11
    chart, photo = make_picture("chart", 6), make_picture("photo", 6)
    blocks.release(computed(blocks, make_sequence("a", prompt, pictures={5: chart})))

    assert num_reused(blocks, make_sequence("b", prompt, pictures={5: chart})) == 3
    assert num_reused(blocks, make_sequence("c", prompt, pictures={5: photo})) == 1


def test_a_block_inside_a_picture_is_named_by_the_picture():
    """Such a block holds the same id in every slot, whatever the picture."""
    blocks = BlockManager(16, 4)
    prompt = [*[-1] * 12, 1]
    chart, photo = make_picture("chart", 12), make_picture("photo", 12)
    blocks.release(computed(blocks, make_sequence("a", prompt, pictures={0: chart})))

    assert num_reused(blocks, make_sequence("b", prompt, pictures={0: photo})) == 0


def test_a_block_with_parts_of_two_pictures_is_named_by_both():
    blocks = BlockManager(16, 4)
    prompt = [-1, -1, -2, -2, 1]
    one, two, three = (make_picture(name, 2) for name in "123")
    blocks.release(computed(blocks, make_sequence("a", prompt, pictures={0: one, 2: two})))

    assert num_reused(blocks, make_sequence("b", prompt, pictures={0: one, 2: two})) == 1
    assert num_reused(blocks, make_sequence("c", prompt, pictures={0: one, 2: three})) == 0
    assert num_reused(blocks, make_sequence("d", prompt, pictures={0: three, 2: two})) == 0


def test_a_shared_block_stays_in_use_until_its_last_user_leaves():
    blocks = BlockManager(4, 4)
    first = computed(blocks, make_sequence("a", range(5)))
    second = computed(blocks, make_sequence("b", [*range(4), 9]))
    shared = first.block_table[0]
    assert second.block_table[0] == shared

    blocks.release(first)
    assert shared in second.block_table
    assert (blocks.num_free, blocks.num_cached) == (2, 0)
    blocks.release(second)
    assert (blocks.num_free, blocks.num_cached) == (3, 1)


def test_releasing_twice_is_harmless():
    blocks = BlockManager(4, 4)
    first = computed(blocks, make_sequence("a", range(5)))
    second = computed(blocks, make_sequence("b", [*range(4), 9]))

    blocks.release(first)
    blocks.release(first)

    assert first.num_computed == 0
    assert_accounted(blocks, [second])
    assert num_reused(blocks, make_sequence("c", range(5))) == 1


@pytest.mark.parametrize(("num_taken", "kept"), [(1, "abc"), (2, "bc"), (3, "c"), (4, "")])
def test_free_blocks_go_first_then_the_cached_ones_oldest_first(num_taken, kept):
    blocks = BlockManager(4, 4)
    for name in "abc":
        sequence = make_sequence(name, [ord(name)] * 4)
        compute(blocks, sequence)
        blocks.release(sequence)
    assert (blocks.num_free, blocks.num_cached) == (1, 3)

    taker = make_sequence("taker", range(16))
    assert blocks.grow(taker, 4 * num_taken)

    found = [name for name in "abc" if num_reused(blocks, make_sequence(name, [ord(name)] * 5))]
    assert "".join(found) == kept
    assert_accounted(blocks, [taker])


def test_of_one_sequences_blocks_the_later_ones_are_given_up_first():
    """A prefix is worth more than its continuation, which is found only through it."""
    blocks = BlockManager(3, 4)
    blocks.release(computed(blocks, make_sequence("a", range(12))))
    taker = make_sequence("b", [99] * 4)

    assert blocks.grow(taker, 4)

    assert num_reused(blocks, make_sequence("c", range(13))) == 2


def test_a_block_that_is_taken_over_is_no_longer_up_for_eviction():
    blocks = BlockManager(3, 4)
    blocks.release(computed(blocks, make_sequence("a", range(8))))
    keeper = make_sequence("b", range(9))
    blocks.take_prefix(keeper)
    assert blocks.num_available == 1

    taker = make_sequence("c", [99] * 8)

    assert not blocks.grow(taker, 8)
    assert blocks.grow(taker, 4)
    assert not set(taker.block_table) & set(keeper.block_table)


def test_an_evicted_block_is_not_found_again():
    blocks = BlockManager(2, 4)
    blocks.release(computed(blocks, make_sequence("a", range(8))))
    other = computed(blocks, make_sequence("b", [99] * 8))
    blocks.release(other)

    assert num_reused(blocks, make_sequence("c", range(8))) == 0


def test_a_block_computed_twice_side_by_side_is_kept_once():
    blocks = BlockManager(4, 4)
    first, second = make_sequence("a", range(4)), make_sequence("b", range(4))
    compute(blocks, first)
    compute(blocks, second)
    assert first.block_table != second.block_table

    blocks.release(second)
    assert (blocks.num_free, blocks.num_cached) == (3, 0)
    blocks.release(first)
    assert (blocks.num_free, blocks.num_cached) == (3, 1)


def test_without_a_prefix_cache_all_blocks_are_free_again():
    blocks = BlockManager(4, 4, prefix_cache=False)
    blocks.release(computed(blocks, make_sequence("a", range(12))))

    assert (blocks.num_free, blocks.num_cached) == (4, 0)
    assert num_reused(blocks, make_sequence("b", range(12))) == 0


def test_forgotten_blocks_are_not_reused():
    blocks = BlockManager(8, 4)
    sequence = computed(blocks, make_sequence("a", range(10)))

    blocks.forget(sequence)

    assert_accounted(blocks, [sequence])
    assert num_reused(blocks, make_sequence("b", range(10))) == 0
    blocks.release(sequence)
    assert (blocks.num_free, blocks.num_cached) == (8, 0)


def test_forgetting_takes_no_block_from_another_user():
    blocks = BlockManager(8, 4)
    first = computed(blocks, make_sequence("a", range(5)))
    second = computed(blocks, make_sequence("b", [*range(4), 9]))

    blocks.forget(first)
    blocks.release(first)

    assert_accounted(blocks, [second])
    assert len(second.block_table) == 2
    blocks.release(second)
    assert blocks.num_free + blocks.num_cached == 8
    # Whoever computes the beginning anew may name it anew.
    blocks.release(computed(blocks, make_sequence("c", range(5))))
    assert num_reused(blocks, make_sequence("d", range(5))) == 1


def test_a_reset_forgets_every_prefix():
    blocks = BlockManager(8, 4)
    blocks.release(computed(blocks, make_sequence("a", range(10))))
    assert blocks.num_cached == 2

    blocks.reset()

    assert (blocks.num_free, blocks.num_cached) == (8, 0)
    assert num_reused(blocks, make_sequence("b", range(10))) == 0


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["take", "compute", "release", "cross", "forget"]),
        st.integers(0, 3),  # which of the sequences
        st.integers(1, 24),  # tokens to compute
    ),
    max_size=60,
)


@given(OPERATIONS, st.integers(1, 12))
def test_no_block_is_ever_lost_or_given_twice(operations, num_blocks):
    """Four sequences come, grow, leave and come back, two of them with the same tokens."""
    blocks = BlockManager(num_blocks, 4)
    prompts = [range(24), range(24), [*range(8), *range(50, 66)], [5] * 24]
    sequences = [make_sequence(str(n), prompt) for n, prompt in enumerate(prompts)]
    for operation, number, num_tokens in operations:
        sequence = sequences[number]
        if operation == "take" and not sequence.block_table:
            blocks.take_prefix(sequence)
        elif operation == "compute":
            end = max(num_tokens, sequence.num_computed)
            if blocks.grow(sequence, end):
                sequence.num_computed = end
                blocks.name_complete_blocks(sequence)
        elif operation == "release":
            blocks.release(sequence)
        elif operation == "forget":
            blocks.forget(sequence)
            blocks.release(sequence)
        elif operation == "cross":
            blocks.release(sequence)
            sequence.long_rope = not sequence.long_rope

        assert_accounted(blocks, sequences)
        assert 0 <= blocks.num_available <= num_blocks
        for one in sequences:
            assert len(set(one.block_table)) == len(one.block_table)
            assert len(one.block_table) * 4 >= one.num_computed
            for other in sequences:
                # Two may share a block only as the same block of the same beginning.
                for block in set(one.block_table) & set(other.block_table):
                    index = one.block_table.index(block)
                    assert other.block_table.index(block) == index
                    end = (index + 1) * 4
                    assert one.token_ids[:end] == other.token_ids[:end]
                    assert one.long_rope == other.long_rope
    for sequence in sequences:
        blocks.release(sequence)
    assert blocks.num_free + blocks.num_cached == num_blocks
