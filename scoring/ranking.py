"""The largest values of each row, without sorting whole rows where that is slow.

A row's answer depends on the row alone: equal values come in the order of their ids.
"""

from functools import lru_cache
from math import isqrt

import numpy as np
import torch
from torch import Tensor


@lru_cache
def block_width(vocab_size: int) -> int:
    """Into blocks of how many tokens to cut a row: a divisor, so that all are equally long."""
    return next(w for w in range(min(64, isqrt(vocab_size)), 0, -1) if vocab_size % w == 0)


def in_blocks(values: Tensor) -> Tensor:
    """(rows, vocab) → (rows, blocks, width)"""
    return values.view(len(values), -1, block_width(values.shape[-1]))


def best(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of each row and its id, the lowest of equals; NaN where there is one.

    The first pass takes the blocks' maxima, which is several times as fast as an argmax.
    """
    blocks = in_blocks(values)
    largest, block = blocks.amax(dim=-1).max(dim=-1)
    return largest, block * blocks.shape[-1] + pick_blocks(blocks, block).argmax(dim=-1)


def pick_blocks(blocks: Tensor, block: Tensor) -> Tensor:
    """Of each row the one that block (rows,) says, (rows, width)."""
    num_rows, num_blocks, _ = blocks.shape
    first = torch.arange(0, num_rows * num_blocks, num_blocks, device=blocks.device)
    return blocks.flatten(0, 1).index_select(0, first + block)


def floor_of_largest(values: Tensor, counts: Tensor) -> Tensor:
    """A value that counts[i] values of row i reach, or more, but not many more; −∞ where none is
    known. counts (rows, 1) → (rows, 1).

    It is the maximum of that many blocks, or a lower one of theirs.
    """
    maxima = in_blocks(values).amax(dim=-1).sort(dim=-1, descending=True).values
    num_blocks = maxima.shape[-1]
    floor = maxima.gather(-1, (counts.long() - 1).clamp(0, num_blocks - 1))
    return floor.masked_fill(counts > num_blocks, -torch.inf)


def largest(values: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """The max(counts) or fewer largest of each row and their ids; of row i at least counts[i]."""
    wanted = max(counts)
    if wanted == 0:
        empty = values[:, :0]
        return empty, empty.long()
    on_cpu = values.device.type == "cpu"
    floor = floor_of_largest(values, torch.tensor(counts)[:, None]) if on_cpu else None
    found, ids = ranked(values, floor)
    return found[:, :wanted], ids[:, :wanted]


def ranked(values: Tensor, floor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Each row's values in descending order, and their ids, (rows, k); where there is a floor
    (rows, 1), those that reach it, and −∞ beyond them.

    Give a floor on a CPU only: there sorting is slow and looking costs nothing, and few values
    pass, as a rule. A GPU sorts quickly, and how many pass could not be known without waiting.
    """
    if floor is None:
        return values.sort(dim=-1, descending=True, stable=True)
    num_rows, vocab_size = values.shape
    source = values.numpy()
    flat = np.flatnonzero(source >= floor.numpy())
    rows, ids = np.divmod(flat, vocab_size)
    counts = np.bincount(rows, minlength=num_rows)
    column = np.arange(len(flat)) - (np.cumsum(counts) - counts)[rows]
    shape = (num_rows, max(1, int(counts.max())))
    passing = np.full(shape, -np.inf, dtype=np.float32)
    passing[rows, column] = source.reshape(-1)[flat]
    passing_ids = np.zeros(shape, dtype=np.int64)
    passing_ids[rows, column] = ids
    order = torch.from_numpy(passing).sort(dim=-1, descending=True, stable=True)
    return order.values, torch.from_numpy(passing_ids).gather(-1, order.indices)
