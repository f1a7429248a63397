"""Where the tests find the published files; hypothesis runs the same examples each time; without a
GPU, Triton's kernels run in its interpreter; what serves, one process or a cluster."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from .http.running_server import Ready, ready_server
from .ray.contract import is_of_the_contract
from .ray.ray_cluster import ready_cluster

# Read when triton is imported, by whomever.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

PROJECT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cluster", choices=["ray"], help="Test clusters, with the tests that share a server."
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("cluster") is None:
        return
    left_out = [item for item in items if not is_of_the_contract(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if is_of_the_contract(item)]
    for item in items:  # the first one's cluster starts, on few cores
        item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def ready(pytestconfig: pytest.Config) -> Ready:
    """Starts a server that tests share."""
    return ready_server if pytestconfig.getoption("cluster") is None else ready_cluster


@pytest.fixture(scope="session")
def shared() -> Path:
    """The published models' small files and the golden outputs, beside the checkout."""
    directory = PROJECT.parent / "shared"
    if not (directory / "golden").is_dir():
        pytest.skip("the published files (shared/) do not lie beside the checkout")
    return directory
