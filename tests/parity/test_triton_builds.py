"""The Triton kernels compile for cards that are not here."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from ..conftest import PROJECT

ARCHITECTURES = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a"]
# With more, fewer than four programs of four warps have room on a multiprocessor.
MAX_REGISTERS = 128


def test_every_kernel_compiles_for_every_architecture_and_spills_nothing(tmp_path):
    if sys.platform != "linux":
        pytest.skip("triton is for Linux")
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    built = subprocess.run(
        [sys.executable, "-m", "tests.triton_builds", "80,86,89,90,100", "bf16,fp16"],
        env=environ | {"TRITON_CACHE_DIR": str(tmp_path)},
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    )
    rows = [json.loads(line) for line in built.stdout.splitlines()]

    assert Counter(row["target"] for row in rows) == dict.fromkeys(ARCHITECTURES, 2 * 10)
    assert [row for row in rows if row["spilled"]] == []
    assert [row for row in rows if row["registers"] > MAX_REGISTERS] == []
