"""Linear layers whose weights lie as the processor wants them.

A plain linear layer re-arranges its weight in every call with few rows, which costs more than the
product. NativeLinear and NativeInt8Linear use our own kernel; OneDnnLinear two operators that are
torch's own but private (Inductor uses them for frozen weights), so they are tried once against the
plain layer before anything relies on them.
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
_INT8_WIDTH_MULTIPLE, _SMALLEST_SCALE = 16, 1e-30


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


class NativeInt8Linear(nn.Module):
    """nn.Linear without a bias in 8 bits, on the native kernel. Weights have a scale for each
    output, inputs one for each row, as it comes. Products are added up exactly.

    packed: (panels, in_features / 4, 32, 4).
    """

    def __init__(self, linear: nn.Linear, native: NativeKernels) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._linear = native.linear_int8
        rest = -self.out_features % _PANEL
        weight = F.pad(linear.weight.float(), (0, 0, 0, rest))
        self._scales = weight.abs().amax(dim=1).clamp(min=_SMALLEST_SCALE) / 127
        weight = (weight / self._scales[:, None]).round().to(torch.int8)
        self._offsets = weight.sum(dim=1, dtype=torch.int32) * 128
        weight = weight.view(-1, _PANEL, self.in_features // 4, 4).transpose(1, 2)
        self._packed = empty_in_large_pages(tuple(weight.shape), weight.dtype).copy_(weight)

    @staticmethod
    def fits(linear: nn.Linear) -> bool:
        return linear.bias is None and linear.in_features % _INT8_WIDTH_MULTIPLE == 0

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == self.in_features  # beyond it lies somebody else's memory
        x = x.contiguous()
        out = torch.empty(*x.shape[:-1], self.out_features, dtype=x.dtype)
        self._linear(
            x.data_ptr(), self._packed.data_ptr(), self._scales.data_ptr(),
            self._offsets.data_ptr(), out.data_ptr(), x.numel() // self.in_features,
            self.in_features // 4, self.out_features, torch.get_num_threads(),
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
def pack_linears(
    model: nn.Module, native: NativeKernels | None, in_int8: nn.Module | None = None
) -> None:
    """Replace every linear layer inside the model, one by one, those inside in_int8 by 8-bit ones,
    which takes the native kernels; log and do nothing where neither these nor oneDNN's can be
    used."""
    eight_bit = set() if in_int8 is None else set(in_int8.modules())
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
            elif parent in eight_bit and NativeInt8Linear.fits(child):
                setattr(parent, name, NativeInt8Linear(child, native))
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
