"""Steps of decodes alone, over buffers that never move, so that a graph can be replayed on them.

For each number of rows, rounded up to a bucket, one graph computes the logits and three small ones
choose tokens from them. Rows beyond those wanted are padding: they read and write the cache's spare
block, and nobody looks at their logits. What changes from step to step goes over in one copy of a
few numbers for each row, and one of the block tables' new entries:

    numbers (rows, 12):  token, source, position, regime, slot, key_len │ draw settings
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .batch import FlatBatch
from .kv_cache import KVCache
from .logits_processors import process
from .sampler import Draw, are_finite, choose_alike, draw_needed, draw_settings
from .scheduler import ScheduledRow
from .sequence import Sequence
from .transfers import to_device

_INTEGERS, _SETTINGS, _WIDTH = 6, 5, 12
_NO_SOURCE = -1


class Graph(Protocol):
    """Some captured work on the device."""

    def replay(self) -> None: ...


MakeGraph = Callable[[Callable[[], None]], Graph]
"""Captures what a function does with tensors: it may run it a few times, and then runs it no more.
The function reads and writes tensors that stay where they are."""


@dataclass(frozen=True)
class _Table:
    """What a row of the block tables shows: so many of a sequence's blocks."""

    sequence: Sequence
    version: int
    num_blocks: int


class StaticDecode:
    """The buffers and the graphs over them. Belongs to a ModelRunner."""

    def __init__(
        self,
        decode: Callable[[FlatBatch], Tensor],
        make_graph: MakeGraph,
        *,
        max_rows: int,
        max_model_len: int,
        cache: KVCache,
        vocab_size: int,
        token_ids: Tensor,
    ) -> None:
        """decode: a batch of decodes → float32 logits (rows, vocab). token_ids: where the step
        before has left its tokens, (max_rows,). Captures all graphs, the largest first."""
        self._decode = decode
        self._block_size, self._spare_block = cache.block_size, cache.spare_block
        self._token_ids = token_ids
        device = token_ids.device
        self._buckets = buckets(max_rows)
        width = -(-max_model_len // self._block_size)
        self._numbers = torch.zeros(max_rows, _WIDTH, dtype=torch.int64, device=device)
        self._tables = torch.full((max_rows, width), self._spare_block, device=device).int()
        self._shown: list[_Table | None] = [None] * max_rows
        self._logits = torch.zeros(max_rows, vocab_size, device=device)
        self._finite = torch.zeros(max_rows, dtype=torch.bool, device=device)
        self._chosen, self._ids = (torch.zeros_like(token_ids) for _ in range(2))
        self._fill([], max_rows, {})
        self._forward: dict[int, Graph] = {}
        self._draws: dict[tuple[int, Draw], Graph] = {}
        for rows in reversed(self._buckets):
            self._forward[rows] = make_graph(partial(self._compute, rows))
        for rows, draw in product(reversed(self._buckets), Draw):
            self._draws[rows, draw] = make_graph(partial(self._choose, rows, draw))

    def fits(self, rows: Items[ScheduledRow]) -> bool:
        return 0 < len(rows) <= self._buckets[-1] and all(
            row.num_tokens == 1 and row.emits for row in rows
        )

    def launch(self, rows: Items[ScheduledRow], row_of: Mapping[Sequence, int]) -> Tensor:
        """→ logits (rows, vocab), which stay until the next launch. row_of: where in token_ids the
        tokens are that the host does not know."""
        bucket = self._bucket(len(rows))
        self._fill(rows, bucket, row_of)
        self._forward[bucket].replay()
        return self._logits[: len(rows)]

    def choose(self, logits: Tensor, sequences: Items[Sequence]) -> tuple[Tensor, Tensor]:
        """As sampler.choose, of the logits of the last launch."""
        process(logits, sequences)
        draw, bucket = draw_needed(sequences), self._bucket(len(sequences))
        if draw is not Draw.GREEDY:
            settings = torch.tensor([draw_settings(s) for s in sequences], dtype=torch.float64)
            self._settings[: len(sequences)] = to_device(settings, logits.device)
        self._draws[bucket, draw].replay()
        return self._chosen[: len(sequences)], self._ids[: len(sequences)]

    @property
    def _settings(self) -> Tensor:
        return self._numbers.view(torch.float64)[:, _INTEGERS : _INTEGERS + _SETTINGS]

    def _bucket(self, num_rows: int) -> int:
        return self._buckets[bisect_left(self._buckets, num_rows)]

    def _fill(self, rows: Items[ScheduledRow], bucket: int, row_of: Mapping[Sequence, int]) -> None:
        """Bring what a step needs to the device."""
        size, width = self._block_size, self._tables.shape[1]
        numbers: list[tuple[int, ...]] = []
        edits: list[tuple[int, int]] = []
        tables: dict[int, _Table | None] = {}
        for index, row in enumerate(rows):
            sequence, position = row.sequence, row.start
            table = sequence.block_table
            source = row_of[sequence] if sequence.is_pending else _NO_SOURCE
            token = max(sequence.token_ids[position], 0)
            slot = table[position // size] * size + position % size
            regime = int(sequence.long_rope)
            numbers.append((token, source, position, regime, slot, position + 1))
            shown = self._shown[index]
            is_same = (
                shown is not None
                and shown.sequence is sequence
                and shown.version == sequence.table_version
            )
            first = shown.num_blocks if shown is not None and is_same else 0
            if first < len(table):
                edits += zip(
                    range(index * width + first, index * width + len(table)),
                    table[first:],
                    strict=True,
                )
                tables[index] = _Table(sequence, sequence.table_version, len(table))
        for index in range(len(rows), bucket):
            numbers.append((0, _NO_SOURCE, 0, 0, self._spare_block * size, 1))
            if self._shown[index] is not None:
                edits.append((index * width, self._spare_block))
                tables[index] = None
        device = self._numbers.device
        self._numbers[:bucket, :_INTEGERS] = to_device(np.array(numbers), device)
        if edits:
            where, blocks = to_device(np.array(edits).T.copy(), device)
            self._tables.view(-1).index_copy_(0, where, blocks.int())
        # Not before: a step that fails on the way here has shown nothing.
        for index, shown in tables.items():
            self._shown[index] = shown

    def _compute(self, rows: int) -> None:
        columns = self._numbers[:rows, :_INTEGERS].T.contiguous()
        token, source, positions, regimes, slots, key_lens = columns.unbind()
        sampled = self._token_ids[source.clamp(min=0)]
        batch = FlatBatch(
            input_ids=torch.where(source == _NO_SOURCE, token, sampled),
            positions=positions,
            regimes=regimes,
            slot_mapping=slots,
            block_tables=self._tables[:rows],
            query_starts=torch.arange(rows + 1, dtype=torch.int32, device=token.device),
            key_lens=key_lens.int(),
            query_lens=[1] * rows,
            context_lens=None,
            emitting=list(range(rows)),
            last_tokens=torch.arange(rows, device=token.device),
        )
        self._logits[:rows] = self._decode(batch)
        self._finite[:rows] = are_finite(self._logits[:rows])

    def _choose(self, rows: int, draw: Draw) -> None:
        self._chosen[:rows], self._ids[:rows] = choose_alike(
            self._logits[:rows], self._finite[:rows], self._settings[:rows], draw
        )


def buckets(max_rows: int) -> list[int]:
    """For how many rows there are graphs: steps so small that few rows are padding, few enough to
    be captured in seconds."""
    sizes = [1, 2, 4, *range(8, min(max_rows, 64), 8), *range(64, max_rows, 32)]
    return [size for size in sizes if size < max_rows] + [max_rows]
