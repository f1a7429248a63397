"""Between host and device, without either waiting for the other.

A copy to the device starts in pinned memory, or it would wait for the device to get there. A copy
to the host runs on a stream of its own and has an event, which is all that is waited for.
"""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: Tensor | NDArray[Any], device: torch.device) -> Tensor:
    """The same values on the device. On the CPU nothing is copied."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cpu":
        return tensor
    # Where tensors are fake there is a device of that name, but no card to pin memory for.
    pinned = tensor.pin_memory() if torch.cuda.is_available() else tensor
    return pinned.to(device, non_blocking=True)


class HostCopy(Protocol):
    """A tensor on its way to the host."""

    def wait(self) -> Tensor: ...


class HostCopies(Protocol):
    """The way from a device to the host."""

    def start(self, values: Tensor) -> HostCopy:
        """Begin a copy of what the values are once all work launched so far is done."""


class _There:
    def __init__(self, values: Tensor) -> None:
        self._values = values

    def wait(self) -> Tensor:
        return self._values


class NoCopies:
    """For a CPU: the values are on the host already."""

    def start(self, values: Tensor) -> _There:
        return _There(values)


class _Copying:
    def __init__(self, host: Tensor, done: torch.cuda.Event) -> None:
        self._host, self._done = host, done

    def wait(self) -> Tensor:
        self._done.synchronize()
        return self._host


class SideStreamCopies:
    """For a GPU. The next step's kernels need not wait for the copy, nor it for them."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, values: Tensor) -> _Copying:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(self._stream):
            host.copy_(values, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
        # The allocator must not give the memory away before the copy has read it.
        values.record_stream(self._stream)
        return _Copying(host, done)


def host_copies(device: torch.device) -> HostCopies:
    return SideStreamCopies(device) if device.type == "cuda" else NoCopies()
