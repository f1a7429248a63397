"""What a prompt cannot beat: its matrix products, at the device's rate."""

import torch

from .device_time import best_seconds

# Sides of the matrices that are multiplied to learn a device's rate.
_SIDE = {"cuda": 8192, "cpu": 1024}


def matrix_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of one large matrix product, best of seven."""
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / best_seconds(lambda: a @ b, device)
