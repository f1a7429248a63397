"""Linear layers whose weights lie as the processor wants them.

A plain linear layer re-arranges its weight in every call with few rows, which costs more than the
product. NativeLinear uses our own kernel; OneDnnLinear two operators that are torch's own but
private (Inductor uses them for frozen weights), so they are tried once against the plain layer
before anything relies on them.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..large_pages import empty_in_large_pages
from .native_kernels import NativeKernels

logger = logging.getLogger(__name__)

# Rows that oneDNN's layout is chosen for; measured good from 1 to 2,048 rows (None was not, at 1
# to 8).
_ROWS_HINT = 16
_PANEL = 32  # outputs that native/linear.h computes together


class NativeLinear(nn.Module):
    """nn.Linear on the native kernel; keeps no plain copy of the weight.

    packed: (panels, in_features / values in 32 bits, 32, values in 32 bits).
    """

    def __init__(self, linear: nn.Linear, native: NativeKernels) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._units = self.in_features * linear.weight.itemsize // 4
        self._linear = native.linear
        rest = -self.out_features % _PANEL
        weight = F.pad(linear.weight, (0, 0, 0, rest)) if rest else linear.weight
        weight = weight.view(-1, _PANEL, self._units, 4 // weight.itemsize).transpose(1, 2)
        self._packed = empty_in_large_pages(tuple(weight.shape), weight.dtype).copy_(weight)
        self._bias = None if linear.bias is None else F.pad(linear.bias, (0, rest))

    @staticmethod
    def fits(linear: nn.Linear, native: NativeKernels) -> bool:
        return (
            linear.weight.dtype is native.dtype
            and linear.in_features * linear.weight.itemsize % 4 == 0
        )

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == self.in_features  # beyond it lies somebody else's memory
        x = x.contiguous()
        out = torch.empty(*x.shape[:-1], self.out_features, dtype=x.dtype)
        self._linear(
            x.data_ptr(), self._packed.data_ptr(),
            None if self._bias is None else self._bias.data_ptr(), out.data_ptr(),
            x.numel() // self.in_features, self._units, self.out_features, torch.get_num_threads(),
        )  # fmt: skip
        return out


class OneDnnLinear(nn.Module):
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
def pack_linears(model: nn.Module, native: NativeKernels | None) -> None:
    """Replace every linear layer inside the model, one by one; log and do nothing where neither
    the native kernels nor oneDNN's can be used."""
    if native is None and not _onednn_works(
        next(m for m in model.modules() if isinstance(m, nn.Linear))
    ):
        logger.warning("oneDNN's packed weights do not work here: linear layers stay as they are")
        return
    # Nothing here may hold a layer that has been replaced: all weights would be there twice.
    for parent in [m for m in model.modules() if not isinstance(m, nn.Linear)]:
        for name, child in parent.named_children():
            if not isinstance(child, nn.Linear):
                continue
            if native is None:
                setattr(parent, name, OneDnnLinear(child))
            elif NativeLinear.fits(child, native):
                setattr(parent, name, NativeLinear(child, native))


def _onednn_works(linear: nn.Linear) -> bool:
    x = torch.ones(3, linear.in_features, dtype=linear.weight.dtype)
    try:
        packed = OneDnnLinear(linear)(x)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    tolerance = 1e-4 if x.dtype is torch.float32 else 2e-2
    return torch.allclose(packed, F.linear(x, linear.weight, linear.bias), tolerance, tolerance)
