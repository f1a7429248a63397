"""One step's rows as flat tensors."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from .scheduler import ScheduledRow
from .sequence import Sequence
from .transfers import to_device


@dataclass(frozen=True)
class FlatBatch:
    """T tokens of S sequences, row after row, decodes first.

    input_ids, positions, regimes, slot_mapping: (T,) int64. Image slots have the id 0, and so have
    tokens that are PENDING, until somebody puts them in place; pending: their indices in T, and
    whose they are. regimes: 0
    for the short rope factors, 1 for the long ones. slot_mapping: where in the cache, counted in
    tokens, a token's key goes. block_tables: (S, B) int32, short rows padded with 0.
    query_starts: (S + 1,) int32, where each row's tokens begin. key_lens: (S,) int32, per row, the
    tokens in the cache once this step's are written.
    query_lens, context_lens: what query_starts and key_lens say, on the host. context_lens is None
    where only the device knows: in a captured step, whose rows are all decodes. emitting: the rows
    that emit; last_tokens: their newest tokens' indices in 0 … T.
    """

    input_ids: Tensor
    positions: Tensor
    regimes: Tensor
    slot_mapping: Tensor
    block_tables: Tensor
    query_starts: Tensor
    key_lens: Tensor
    query_lens: list[int]
    context_lens: list[int] | None
    emitting: list[int]
    last_tokens: Tensor
    pending: list[tuple[int, Sequence]] = field(default_factory=list)

    @property
    def num_decodes(self) -> int:
        """How many rows at the front have a single token."""
        longer = (row for row, length in enumerate(self.query_lens) if length > 1)
        return next(longer, len(self.query_lens))

    def of_last_tokens(self) -> "FlatBatch":
        """The rows that emit with their newest token alone."""
        assert self.context_lens is not None
        num_rows = len(self.emitting)
        rows = to_device(torch.tensor(self.emitting, dtype=torch.int64), self.key_lens.device)
        return FlatBatch(
            input_ids=self.input_ids[self.last_tokens],
            positions=self.positions[self.last_tokens],
            regimes=self.regimes[self.last_tokens],
            slot_mapping=self.slot_mapping[self.last_tokens],
            block_tables=self.block_tables[rows],
            query_starts=_arange(num_rows + 1, self.key_lens).int(),
            key_lens=self.key_lens[rows],
            query_lens=[1] * num_rows,
            context_lens=[self.context_lens[row] for row in self.emitting],
            emitting=list(range(num_rows)),
            last_tokens=_arange(num_rows, self.last_tokens),
        )


def to_flat_batch(rows: Items[ScheduledRow], block_size: int, device: torch.device) -> FlatBatch:
    """Lay out the rows on the host and copy them to the device."""
    input_ids: list[int] = []
    positions: list[int] = []
    regimes: list[int] = []
    slots: list[int] = []
    last_tokens: list[int] = []
    pending: list[tuple[int, Sequence]] = []
    for row in rows:
        sequence, table = row.sequence, row.sequence.block_table
        input_ids += [max(token, 0) for token in sequence.token_ids[row.start : row.end]]
        positions += range(row.start, row.end)
        regimes += [int(sequence.long_rope)] * row.num_tokens
        slots += [
            table[position // block_size] * block_size + position % block_size
            for position in range(row.start, row.end)
        ]
        if row.emits:
            last_tokens.append(len(input_ids) - 1)
            if sequence.is_pending:
                pending.append((len(input_ids) - 1, sequence))
    width = max(len(row.sequence.block_table) for row in rows)
    tables = [
        row.sequence.block_table + [0] * (width - len(row.sequence.block_table)) for row in rows
    ]
    query_lens, context_lens = [row.num_tokens for row in rows], [row.end for row in rows]

    def on_device(values: object, dtype: torch.dtype = torch.int64) -> Tensor:
        return to_device(torch.tensor(values, dtype=dtype), device)

    return FlatBatch(
        input_ids=on_device(input_ids),
        positions=on_device(positions),
        regimes=on_device(regimes),
        slot_mapping=on_device(slots),
        block_tables=on_device(tables, torch.int32),
        query_starts=on_device([0, *accumulate(query_lens)], torch.int32),
        key_lens=on_device(context_lens, torch.int32),
        query_lens=query_lens,
        context_lens=context_lens,
        emitting=[index for index, row in enumerate(rows) if row.emits],
        last_tokens=on_device(last_tokens),
        pending=pending,
    )


def _arange(end: int, like: Tensor) -> Tensor:
    return torch.arange(end, device=like.device)
