"""Triton's launcher, compiled ahead: our kernels on a machine without a C compiler.

Triton compiles kernels by itself. What loads and launches them, the same for every kernel, is a
Python module in C, which it has gcc or clang compile at the first use. An image that is to hold no
compiler compiles it while it is built: `python -m scoring.models.triton_kernels.launcher`.
"""

import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from functools import partial
from pathlib import Path

import triton
from triton import knobs

_PREBUILT = Path(__file__).parent / "prebuilt"
_BACKEND = Path(triton.__file__).parent / "backends" / "nvidia"
_DRIVER = "libcuda.so.1"


def use_prebuilt(directory: Path = _PREBUILT) -> None:
    """Have Triton take the launcher that was compiled ahead, where there is one and no compiler."""
    if directory.is_dir() and _compiler() is None:
        knobs.build.impl = partial(_find, directory)


def build_ahead(directory: Path = _PREBUILT) -> None:
    """Compile the installed Triton's launcher into a directory.

    Raises RuntimeError without a C compiler, subprocess.CalledProcessError where it fails.
    """
    compiler = _compiler()
    if compiler is None:
        raise RuntimeError("there is no C compiler (gcc or clang)")
    source = _BACKEND / "driver.c"
    directory.mkdir(exist_ok=True)
    includes = [f"-I{_BACKEND / 'include'}", f"-I{sysconfig.get_paths()['include']}"]
    with tempfile.TemporaryDirectory() as aside:
        # Stands for the driver's library, which a machine that builds images need not have: all
        # that is taken from it is its name.
        stub = ["-shared", f"-Wl,-soname,{_DRIVER}", "-x", "c", os.devnull]
        subprocess.run([compiler, *stub, "-o", f"{aside}/{_DRIVER}"], check=True)
        library = [f"-L{aside}", "-Wl,--no-as-needed", f"-l:{_DRIVER}"]
        target = _path(directory, "cuda_utils", source)
        options = ["-O3", "-shared", "-fPIC", "-w", "-o", str(target)]
        subprocess.run([compiler, str(source), *options, *includes, *library], check=True)


def _compiler() -> str | None:
    """As Triton looks for it."""
    return knobs.build.cc or shutil.which("gcc") or shutil.which("clang")


def _path(directory: Path, name: str, source: Path) -> Path:
    """Where a source's module lies: another one for another version of Triton or Python."""
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    return directory / f"{name}-{key}{sysconfig.get_config_var('EXT_SUFFIX')}"


def _find(directory: Path, name: str, source: str, *_: object) -> str:
    """In place of Triton's call of the compiler."""
    path = _path(directory, name, Path(source))
    if not path.exists():
        raise RuntimeError(f"there is no C compiler, and {path.name} was not compiled ahead")
    return str(path)


if __name__ == "__main__":
    build_ahead()
