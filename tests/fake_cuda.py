"""The device 'cuda' for fake tensors, in a build of torch that has no CUDA.

Such a build knows the device's name but has nothing to switch devices with, which indexing asks for
and every other operation does without. torch has an empty switch for fake tensors' sake; here it
gets registered.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

_SOURCE = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
using Guard = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
"""


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Inside, tensors have shapes, dtypes and devices, but no values. Skips the test where there
    is no C++ compiler."""
    _register_switch()
    # Arrays come from numpy, and index tensors from lists: real ones, on the host.
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@cache
def _register_switch() -> None:
    if torch.cuda.is_available():
        return
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    torch_directory = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as directory:
        source, library = Path(directory, "switch.cpp"), Path(directory, "switch.so")
        source.write_text(_SOURCE)
        subprocess.run(
            [
                *("g++", "-std=c++20", "-O0", "-shared", "-fPIC", str(source), "-o", str(library)),
                *(f"-I{torch_directory / 'include'}", f"-L{torch_directory / 'lib'}", "-lc10"),
            ],
            check=True,
            timeout=120,
        )
        ctypes.CDLL(str(library))
