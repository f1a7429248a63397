"""What changes logits before a token is chosen: biases, penalties, bans and grammar masks.

Everything but the masks is sparse: the rows that want it are edited at the tokens concerned, in
one gather and one scatter for the whole batch, and no other row is read or written.
"""

from collections.abc import Sequence as Items

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .sequence import Sequence, TokenMask
from .token_history import TokenHistory
from .transfers import to_device


def process(logits: Tensor, sequences: Items[Sequence]) -> None:
    """Edit the logits, contiguous (rows, vocab), in place. SamplingParams names the order."""
    biased, penalized, unfinished, masked = [], [], [], []
    for row, sequence in enumerate(sequences):
        params = sequence.params
        if params.logit_bias:
            biased.append((row, sequence))
        if params.has_penalties:
            penalized.append((row, sequence))
        if sequence.num_output_tokens < params.min_tokens:
            unfinished.append((row, sequence))
        if sequence.token_mask is not None and not sequence.is_over:
            masked.append((row, sequence, sequence.token_mask))
    if biased:
        _add_biases(logits, biased)
    if penalized:
        _penalize(logits, penalized)
    if unfinished:
        _ban_ends(logits, unfinished)
    if masked:
        _apply_masks(logits, masked)


def _add_biases(logits: Tensor, rows: list[tuple[int, Sequence]]) -> None:
    arrays = [(row, *sequence.params.bias_arrays) for row, sequence in rows]
    index = _flat_index(logits, [(row, ids) for row, ids, _ in arrays])
    values = np.concatenate([values for _, _, values in arrays])
    logits.view(-1).index_add_(0, index, to_device(values, logits.device))


def _penalize(logits: Tensor, rows: list[tuple[int, Sequence]]) -> None:
    places, repetition, costs = [], [], []
    for row, sequence in rows:
        params, history = sequence.params, _history(sequence)
        places.append((row, history.ids))
        repetition.append(np.full(len(history.ids), params.repetition_penalty))
        costs.append(
            params.presence_penalty * (history.counts > 0)
            + params.frequency_penalty * history.counts
        )
    index = _flat_index(logits, places)
    factors, subtrahends = to_device(
        np.stack([np.concatenate(repetition), np.concatenate(costs)]), logits.device
    ).float()
    flat = logits.view(-1)
    values = flat.index_select(0, index)
    # A factor of 1 changes nothing, not even the last bit.
    values = torch.where(values > 0, values / factors, values * factors)
    flat.index_copy_(0, index, values - subtrahends)


def _history(sequence: Sequence) -> TokenHistory:
    """The tokens to be penalized, up to the newest."""
    if sequence.history is None:
        sequence.history = TokenHistory(
            sequence.num_prompt_tokens, with_prompt=sequence.params.repetition_penalty != 1.0
        )
    sequence.history.read(sequence.token_ids)
    return sequence.history


def _ban_ends(logits: Tensor, rows: list[tuple[int, Sequence]]) -> None:
    index = _flat_index(logits, [(row, sequence.params.end_array) for row, sequence in rows])
    logits.view(-1).index_fill_(0, index, -torch.inf)


def _flat_index(logits: Tensor, places: list[tuple[int, NDArray[np.int64]]]) -> Tensor:
    """(row, token ids) → indices into the flattened logits."""
    vocab_size = logits.shape[-1]
    return to_device(np.concatenate([row * vocab_size + ids for row, ids in places]), logits.device)


def _apply_masks(logits: Tensor, rows: list[tuple[int, Sequence, TokenMask]]) -> None:
    vocab_size = logits.shape[-1]
    bitmask = np.zeros((len(rows), -(-vocab_size // 32)), dtype=np.int32)
    for index, (_, sequence, mask) in enumerate(rows):
        # What was sampled since, rather than in the step that sampled it: that one may have failed.
        for token_id in sequence.token_ids[sequence.num_prompt_tokens + sequence.num_accepted :]:
            mask.accept(token_id)
            sequence.num_accepted += 1
        mask.fill(bitmask, index)
    bits = np.unpackbits(bitmask.view(np.uint8), axis=-1, count=vocab_size, bitorder="little")
    banned = to_device(bits == 0, logits.device)
    selected = to_device(np.array([row for row, _, _ in rows]), logits.device)
    edited = logits.index_select(0, selected).masked_fill_(banned, -torch.inf)
    logits.index_copy_(0, selected, edited)
