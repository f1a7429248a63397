"""Where the tests find the published files; hypothesis runs the same examples each time; without a
GPU, Triton's kernels run in its interpreter."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Read when triton is imported, by whomever.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The published models' small files and the golden outputs, beside the checkout."""
    directory = PROJECT.parent / "shared"
    if not (directory / "golden").is_dir():
        pytest.skip("the published files (shared/) do not lie beside the checkout")
    return directory
