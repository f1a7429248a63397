"""What an exception of a step means: too little memory, a broken device, or anything else."""

import errno
from enum import Enum, auto

import torch

# torch has a class for a GPU's allocator only. On the host and in the libraries beside it too
# little memory is a RuntimeError, and only its text tells it from others.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "std::bad_alloc",
)
_DEVICE = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]")


class StepError(Enum):
    """MEMORY: there was too little; some may be given back. DEVICE: every later call on the device
    would fail, too. OTHER: whatever else; a row may be the cause."""

    MEMORY = auto()
    DEVICE = auto()
    OTHER = auto()


def kind_of(error: Exception) -> StepError:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return StepError.MEMORY
    if isinstance(error, OSError):
        return StepError.MEMORY if error.errno == errno.ENOMEM else StepError.OTHER
    if isinstance(error, RuntimeError):
        text = str(error)
        # First: a failed allocation leaves the device well, though it is a "CUDA error", too.
        if any(words in text for words in _OUT_OF_MEMORY):
            return StepError.MEMORY
        if isinstance(error, torch.AcceleratorError) or any(words in text for words in _DEVICE):
            return StepError.DEVICE
    return StepError.OTHER
