"""Triton's launcher compiled ahead, and taken where there is no compiler: up to the driver's first
call, as no GPU is needed for that. The driver's library is one whose functions do nothing."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not (find_spec("triton") and shutil.which("gcc") and shutil.which("nm")),
    reason="needs triton and gcc",
)
# What Triton itself does before it launches its first kernel.
LOAD = """
import sys
from pathlib import Path
from scoring.models.triton_kernels.launcher import use_prebuilt
use_prebuilt(Path(sys.argv[1]))
from triton.backends.nvidia.driver import CudaUtils
print(callable(CudaUtils().launch))
"""


@pytest.fixture(scope="module")
def prebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scoring.models.triton_kernels.launcher import build_ahead

    directory = tmp_path_factory.mktemp("launcher") / "prebuilt"
    build_ahead(directory)
    return directory


@pytest.fixture(scope="module")
def driver(prebuilt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a driver's library that has the functions that the launcher calls."""
    (module,) = prebuilt.iterdir()
    found = subprocess.run(
        ["nm", "-D", "--undefined-only", str(module)], capture_output=True, text=True, check=True
    )
    names = [name for name in found.stdout.split() if name.startswith("cu")]
    assert "cuModuleLoadData" in names
    directory = tmp_path_factory.mktemp("driver")
    source = directory / "driver.c"
    source.write_text("\n".join(f"int {name}(void) {{ return 0; }}" for name in names))
    library = directory / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return directory


def load(prebuilt: Path, driver: Path, cache: Path) -> "subprocess.CompletedProcess[str]":
    """In a process that finds no compiler."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TRITON")}
    environ.pop("CC", None)
    environ |= {
        "PATH": "/nonexistent",
        "LD_LIBRARY_PATH": str(driver),
        "TRITON_CACHE_DIR": str(cache),
    }
    return subprocess.run(
        [sys.executable, "-c", LOAD, str(prebuilt)],
        env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_without_a_compiler_the_launcher_compiled_ahead_is_taken(
    prebuilt: Path, driver: Path, tmp_path: Path
) -> None:
    done = load(prebuilt, driver, tmp_path / "cache")

    assert done.stdout == "True\n", done.stderr


def test_without_one_compiled_ahead_the_compiler_is_missed(driver: Path, tmp_path: Path) -> None:
    done = load(tmp_path / "nothing", driver, tmp_path / "cache")

    assert "RuntimeError: Failed to find C compiler" in done.stderr


def test_one_of_another_triton_is_not_taken(prebuilt: Path, driver: Path, tmp_path: Path) -> None:
    (module,) = prebuilt.iterdir()
    other = tmp_path / "prebuilt" / module.name.replace("cuda_utils-", "cuda_utils-0")
    other.parent.mkdir()
    shutil.copy(module, other)

    done = load(other.parent, driver, tmp_path / "cache")

    assert f"there is no C compiler, and {module.name} was not compiled ahead" in done.stderr
