"""What the tower is taught beside the answers: to name what each image token shows.

An answer says little about where it was read. Names of the shapes and characters whose centres lie
in a token say it at once, and without them the tower hardly begins to learn. The head that names
is not part of the model.
"""

import string

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .canvas import COLORS, Mark
from .placement import Placement
from .shape import KINDS

# Characters side by side in one token, from the left.
_SLOTS = 3
_NAMES = ("", *KINDS, *string.digits, *string.ascii_letters)
_COLOR_NAMES = ("", *COLORS)
_UNKNOWN = -100
_WEIGHT_OF_NOTHING = 0.1


class NamingHead(nn.Module):
    """Merged tokens → logits of the names in every slot, and of the first one's colour."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.names = nn.Linear(width, _SLOTS * len(_NAMES))
        self.colors = nn.Linear(width, len(_COLOR_NAMES))

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """tokens: (crops, side, side, 4C). labels: (crops, side, side, _SLOTS + 1)."""
        names = self.names(tokens).float().view(-1, len(_NAMES))
        colors = self.colors(tokens).float().view(-1, len(_COLOR_NAMES))
        return _cross_entropy(names, labels[..., :_SLOTS]) + _cross_entropy(
            colors, labels[..., _SLOTS]
        )

    def share_right(self, tokens: Tensor, labels: Tensor) -> float:
        """Of the names that are not nothing."""
        named = labels[..., :_SLOTS].flatten()
        guesses = self.names(tokens).view(-1, len(_NAMES)).argmax(-1)
        return float((guesses == named)[named > 0].float().mean())


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    weight = torch.ones(logits.shape[1])
    weight[0] = _WEIGHT_OF_NOTHING
    return F.cross_entropy(logits, labels.flatten(), weight)


def labels_of(marks: list[Mark], placement: Placement) -> Tensor:
    """The labels of one picture's crops, the global view first: (crops, side, side, _SLOTS + 1).

    What is too small in a view to be read is unknown there, not nothing.
    """
    rows, cols, side = placement.crop_rows, placement.crop_cols, placement.side
    local = torch.zeros(rows * side, cols * side, _SLOTS + 1, dtype=torch.int64)
    overview = torch.zeros(side, side, _SLOTS + 1, dtype=torch.int64)
    for mark in sorted(marks, key=lambda mark: mark.x):
        for place in placement.in_crops(mark):
            _put(local[place], mark, placement.told_in_crops(mark))
        _put(overview[placement.in_overview(mark)], mark, placement.told_in_overview(mark))
    crops = (
        local.view(rows, side, cols, side, -1).transpose(1, 2).reshape(-1, side, side, _SLOTS + 1)
    )
    return torch.cat((overview[None], crops))


def _put(cell: Tensor, mark: Mark, is_told: bool) -> None:
    if mark.name not in _NAMES:
        return
    if not is_told:
        cell[:] = _UNKNOWN
        return
    free = (cell[:_SLOTS] == 0).nonzero()
    if len(free) == 0:
        return
    slot = int(free[0])
    cell[slot] = _NAMES.index(mark.name)
    if slot == 0:
        cell[_SLOTS] = _COLOR_NAMES.index(mark.color)
