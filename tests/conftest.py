"""Where the tests find the published files; hypothesis runs the same examples each time."""

from pathlib import Path

import pytest
from hypothesis import settings

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
