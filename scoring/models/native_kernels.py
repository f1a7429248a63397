"""native/kernels.cpp: built with g++ where it is first needed, called through ctypes.

A decoder step on a CPU is a few hundred calls of a few microseconds: what counts is that each
reads its weights at the memory's speed and costs nothing on the way in. The interpreter's lock is
free meanwhile.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from model_config import TextConfig

from ..cache_directory import cache_directory
from ..kv_cache import LayerCache
from .kernels import EAGER, Kernels

logger = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent / "native"
_CPU_FEATURES = (
    "avx512_f",
    "avx512_bw",
    "avx512_dq",
    "avx512_vl",
    "avx512_bf16",
    "avx512_vnni",
    "fma3",
)
_FLAGS = (
    *("-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-w"),
    *(
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx512bf16",
        "-mavx512vnni",
        "-mfma",
    ),
)
_BUILD_TIMEOUT_S = 120
_DTYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}
_HEAD_DIM_MULTIPLE, _MAX_HEAD_DIM = 32, 512
_WIDTH_MULTIPLE = _BLOCK_MULTIPLE = 16

_PTR, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "linear": (*[_PTR] * 4, *[_LONG] * 3, _INT),
    "linear_int8": (*[_PTR] * 5, *[_LONG] * 3, _INT),
    "attend": (*[_PTR] * 7, *[_LONG] * 5, _INT, _INT),
    "rms_norm": (*[_PTR] * 5, *[_LONG] * 2, _FLOAT, _INT),
    "rotate_and_write": (*[_PTR] * 7, *[_LONG] * 4, _INT),
    "swiglu": (*[_PTR] * 2, *[_LONG] * 2, _INT),
}


class NativeKernels:
    """The functions of the built library for one dtype. Tensors are on the CPU, contiguous, and of
    that dtype; sizes are those that `supports` allows."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._functions = {}
        for name, types in _SIGNATURES.items():
            function = getattr(library, f"{name}_{_DTYPES[dtype]}")
            function.argtypes, function.restype = types, None
            self._functions[name] = function
        self.linear, self.linear_int8 = self._functions["linear"], self._functions["linear_int8"]

    def kernels(self, block_size: int) -> Kernels:
        """block_size: of the cache; its blocks get a layout that only `attend` knows."""
        write = partial(self.rotate_and_write, block_size=block_size)
        return Kernels("native", self.rms_norm, self.add_rms_norm, write, self.swiglu)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """As kernels.rms_norm."""
        out = torch.empty_like(x)
        self._functions["rms_norm"](
            x.data_ptr(), None, weight.data_ptr(), out.data_ptr(), None,
            *x.shape, eps, torch.get_num_threads(),
        )  # fmt: skip
        return out

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """As kernels.add_rms_norm."""
        out, total = torch.empty_like(x), torch.empty_like(x)
        self._functions["rms_norm"](
            x.data_ptr(), residual.data_ptr(), weight.data_ptr(), out.data_ptr(), total.data_ptr(),
            *x.shape, eps, torch.get_num_threads(),
        )  # fmt: skip
        return out, total

    def rotate_and_write(
        self,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: LayerCache,
        slots: Tensor,
        block_size: int,
    ) -> Tensor:
        """As kernels.rotate_and_write, but for the layout within a block: see the source."""
        heads, head_dim = cache.keys.shape[1:]
        query = torch.empty(len(qkv), heads, head_dim, dtype=qkv.dtype)
        self._functions["rotate_and_write"](
            qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(), query.data_ptr(),
            cache.keys.data_ptr(), cache.values.data_ptr(), slots.data_ptr(),
            len(qkv), heads, head_dim, block_size, torch.get_num_threads(),
        )  # fmt: skip
        return query

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """As kernels.swiglu."""
        rows, width = len(gate_up), gate_up.shape[1] // 2
        out = torch.empty(rows, width, dtype=gate_up.dtype)
        self._functions["swiglu"](
            gate_up.data_ptr(), out.data_ptr(), rows, width, torch.get_num_threads()
        )
        return out

    def attend(
        self,
        query: Tensor,
        cache: LayerCache,
        block_tables: Tensor,
        query_starts: Tensor,
        context_lens: Tensor,
        block_size: int,
        *,
        is_causal: bool = True,
    ) -> Tensor:
        """Attention of S rows' newest tokens over all of their own, later ones left out where it
        is causal.

        query: (T, heads, head_dim). cache: written by rotate_and_write. int32: block_tables
        (S, B); query_starts (S + 1,), where each row's queries begin in T; context_lens (S,),
        tokens in the cache, the queries' own included. block_size: a multiple of 16. → as query.
        """
        out = torch.empty_like(query)
        self._functions["attend"](
            query.data_ptr(), cache.keys.data_ptr(), cache.values.data_ptr(), out.data_ptr(),
            block_tables.data_ptr(), query_starts.data_ptr(), context_lens.data_ptr(),
            *block_tables.shape, block_size, *query.shape[1:], is_causal, torch.get_num_threads(),
        )  # fmt: skip
        return out

    def attend_all(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of every token over all, without a cache or positions.

        query, key, value: (N, L, heads, head_dim) → the same.
        """
        rows, length, heads, head_dim = query.shape
        # A row is a sequence with one block of its own, and a rotation by nothing.
        block_size = -(-length // _BLOCK_MULTIPLE) * _BLOCK_MULTIPLE
        cache = LayerCache(*torch.empty(2, rows * block_size, heads, head_dim, dtype=query.dtype))
        slots = torch.arange(rows)[:, None] * block_size + torch.arange(length)
        cos = torch.ones(rows * length, head_dim, dtype=query.dtype)
        qkv = torch.cat([x.reshape(rows * length, -1) for x in (query, key, value)], dim=-1)
        turned = self.rotate_and_write(
            qkv, cos, torch.zeros_like(cos), cache, slots.flatten(), block_size
        )
        blocks = torch.arange(rows + 1, dtype=torch.int32)
        lengths = torch.full((rows,), length, dtype=torch.int32)
        return self.attend(
            turned, cache, blocks[:-1, None].contiguous(), blocks * length, lengths,
            block_size, is_causal=False,
        ).view(query.shape)  # fmt: skip


def fits_heads(head_dim: int) -> bool:
    """Whether `attend` can be used for heads of that size."""
    return head_dim % _HEAD_DIM_MULTIPLE == 0 and head_dim <= _MAX_HEAD_DIM


def load_native(dtype: torch.dtype, text: TextConfig) -> tuple[NativeKernels | None, str]:
    """The native kernels, or None; and why. Builds them once, in seconds."""
    # Not in older torch.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    missing = [name for name in _CPU_FEATURES if not capabilities.get(name)]
    if missing:
        return None, f"this processor has no {', '.join(missing)}"
    if dtype not in _DTYPES:
        return None, f"there are none for {dtype}"
    if not fits_heads(text.head_dim) or text.intermediate_size % _WIDTH_MULTIPLE:
        return None, f"heads of {text.head_dim} or an MLP of {text.intermediate_size} do not fit"
    library = _library()
    if library is None:
        return None, "they could not be built"
    native = NativeKernels(library, dtype)
    if not _is_right(native):
        return None, "they give wrong results here"
    return native, "AVX-512"


@cache
def _library() -> ctypes.CDLL | None:
    compiler = shutil.which("g++")
    if compiler is None:
        logger.warning("no C++ compiler (g++): the model runs slower than it could")
        return None
    sources = b"".join(file.read_bytes() for file in sorted(_SOURCES.iterdir()))
    key = hashlib.sha256(sources + " ".join(_FLAGS).encode()).hexdigest()[:16]
    try:
        path = cache_directory() / f"native-kernels-{key}.so"
        if not path.exists():
            _build(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("the native kernels could not be built: %s", error)
        return None


def _build(compiler: str, path: Path) -> None:
    """Built aside and moved: another process may want the same one now."""
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        built = Path(aside) / path.name
        command = [compiler, *_FLAGS, str(_SOURCES / "kernels.cpp"), "-o", str(built)]
        subprocess.run(command, check=True, capture_output=True, timeout=_BUILD_TIMEOUT_S)
        os.replace(built, path)


@torch.inference_mode()
def _is_right(native: NativeKernels) -> bool:
    """Whether the norm agrees with torch's, which takes every kind of instruction but attention's:
    a compiler that miscompiles would be noticed before anybody relies on it."""
    x = torch.linspace(-3, 3, 3 * 64).view(3, 64).to(native.dtype)
    tolerance = 1e-5 if native.dtype is torch.float32 else 2e-2
    expected = EAGER.rms_norm(x, x[0], 1e-5)
    return torch.allclose(native.rms_norm(x, x[0], 1e-5), expected, tolerance, tolerance)
