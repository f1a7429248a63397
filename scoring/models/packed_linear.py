"""Linear layers whose weights lie as oneDNN wants them, on a CPU.

A plain linear layer re-arranges its weight in every call with few rows, which costs more than the
product. The two operators are torch's own but private (Inductor uses them for frozen weights), so
they are tried once against the plain layer before anything relies on them.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Rows that the layout is chosen for; measured good from 1 to 2,048 rows (None was not, at 1 to 8).
_ROWS_HINT = 16


class PackedLinear(nn.Module):
    """nn.Linear with a packed weight; keeps no plain copy."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
        self._bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight, _ROWS_HINT)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, "none", [], ""
        )
        return output


@torch.inference_mode()
def pack_linears(model: nn.Module) -> None:
    """Replace every linear layer inside the model, one by one; log and do nothing where this
    torch or processor cannot."""
    if not _works(next(m for m in model.modules() if isinstance(m, nn.Linear))):
        logger.warning("oneDNN's packed weights do not work here: linear layers stay as they are")
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, PackedLinear(child))


def _works(linear: nn.Linear) -> bool:
    x = torch.ones(3, linear.in_features, dtype=linear.weight.dtype)
    try:
        packed = PackedLinear(linear)(x)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    tolerance = 1e-4 if x.dtype is torch.float32 else 2e-2
    return torch.allclose(packed, F.linear(x, linear.weight, linear.bias), tolerance, tolerance)
