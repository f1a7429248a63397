"""How much of a GPU's memory is in use, asked seldom enough for every step to tell."""

import time

import torch

_EVERY_S = 1.0


class DeviceMemory:
    """Of the current CUDA device, all its processes together. Belongs to the engine's thread."""

    def __init__(self) -> None:
        self._asked = float("-inf")
        self._used, self._total = 0, 0

    def read(self) -> tuple[int, int]:
        """Bytes in use, and all there are; at most a second old."""
        now = time.monotonic()
        if now - self._asked >= _EVERY_S:
            free, self._total = torch.cuda.mem_get_info()
            self._used, self._asked = self._total - free, now
        return self._used, self._total
