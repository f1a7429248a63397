"""A step's rows as flat tensors."""

import torch

from scoring.batch import FlatBatch, to_flat_batch
from scoring.scheduler import ScheduledRow
from scoring.sequence import Sequence

from .scripted import make_picture, make_sequence

CPU = torch.device("cpu")


def with_blocks(sequence: Sequence, *blocks: int, long_rope: bool = False) -> Sequence:
    sequence.block_table = list(blocks)
    sequence.long_rope = long_rope
    return sequence


def test_rows_of_all_kinds_lie_one_after_the_other():
    decoding = with_blocks(make_sequence("a", range(10, 16)), 3, 0, long_rope=True)
    chunk = with_blocks(make_sequence("b", range(20, 31)), 5, 2, 7)
    batch = to_flat_batch([ScheduledRow(decoding, 5, 1), ScheduledRow(chunk, 2, 7)], 4, CPU)

    assert batch.input_ids.tolist() == [15, *range(22, 29)]
    assert batch.positions.tolist() == [5, *range(2, 9)]
    assert batch.regimes.tolist() == [1] + [0] * 7
    # Block 0 holds slots 0 … 3, block 5 slots 20 … 23: a token's slot is its place in the cache.
    assert batch.slot_mapping.tolist() == [1, 22, 23, 8, 9, 10, 11, 28]
    assert batch.block_tables.tolist() == [[3, 0, 0], [5, 2, 7]]
    assert batch.block_tables.dtype is torch.int32
    assert (batch.query_lens, batch.context_lens) == ([1, 7], [6, 9])
    assert (batch.query_starts.tolist(), batch.key_lens.tolist()) == ([0, 1, 8], [6, 9])
    assert batch.last_tokens.tolist() == [0]  # the chunk does not reach its sequence's end
    assert batch.num_decodes == 1


def test_every_row_that_reaches_its_end_emits():
    rows = [
        ScheduledRow(with_blocks(make_sequence("a", [1, 2]), 0), 1, 1),
        ScheduledRow(with_blocks(make_sequence("b", [3, 4, 5]), 1), 0, 3),
        ScheduledRow(with_blocks(make_sequence("c", [6, 7, 8]), 2), 0, 2),
        ScheduledRow(with_blocks(make_sequence("d", [9]), 3), 0, 1),
    ]

    batch = to_flat_batch(rows, 4, CPU)

    assert batch.last_tokens.tolist() == [0, 3, 6]
    assert batch.num_decodes == 1  # d lies behind longer rows


def test_of_last_tokens_keeps_the_rows_that_emit_with_one_token_each():
    rows = [
        ScheduledRow(with_blocks(make_sequence("a", [1, 2, 3]), 4), 0, 2),  # does not reach its end
        ScheduledRow(with_blocks(make_sequence("b", [3, 4, 5]), 1, long_rope=True), 1, 2),
        ScheduledRow(with_blocks(make_sequence("c", [6]), 2), 0, 1),
    ]

    last = to_flat_batch(rows, 4, CPU).of_last_tokens()

    assert last.input_ids.tolist() == [5, 6]
    assert last.positions.tolist() == [2, 0]
    assert last.regimes.tolist() == [1, 0]
    assert last.slot_mapping.tolist() == [6, 8]
    assert last.block_tables.tolist() == [[1], [2]]
    assert (last.query_lens, last.context_lens) == ([1, 1], [3, 1])
    assert (last.query_starts.tolist(), last.key_lens.tolist()) == ([0, 1, 2], [3, 1])
    assert (last.emitting, last.last_tokens.tolist()) == ([0, 1], [0, 1])


def test_only_rows_of_one_token_are_all_decodes():
    rows = [ScheduledRow(with_blocks(make_sequence(n, [1]), 0), 0, 1) for n in "ab"]

    assert to_flat_batch(rows, 4, CPU).num_decodes == 2


def test_picture_slots_have_an_id_that_the_embedding_has():
    picture = make_picture("chart", 2)
    sequence = with_blocks(make_sequence(prompt=[1, -1, -1, 2], pictures={1: picture}), 0)

    batch: FlatBatch = to_flat_batch([ScheduledRow(sequence, 0, 4)], 4, CPU)

    assert batch.input_ids.tolist() == [1, 0, 0, 2]
