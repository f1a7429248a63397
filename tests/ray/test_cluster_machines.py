"""A cluster of two machines, each a set of processes here, and one that is taken out of it."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ..http.running_server import assert_well
from .conftest import replicas_below
from .ray_head import RayHead
from .test_cluster_update import Callers

_MAX_REQUEST_S = 40
_DRAIN_S = 60


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """It has room for the application and one engine."""
    flags = ("--num-cpus", "1", "--resources", '{"head": 1}')
    with RayHead.started(tmp_path_factory.mktemp("head"), *flags) as head:
        yield head


def test_a_machine_that_goes_finishes_its_answers(
    head: RayHead, demo_checkpoint: Path, tmp_path: Path
) -> None:
    at_the_head = {"num_cpus": 0.3, "resources": {"head": 0.1}}
    log_file = tmp_path / "machine.log"
    with head.further_machine(log_file, _DRAIN_S) as machine:
        head.deploy(
            {"name": "Ingress", "ray_actor_options": at_the_head},
            model=str(demo_checkpoint),
            max_request_s=_MAX_REQUEST_S,
        )
        head.wait_until_settled(Engine=2, Ingress=2)
        head.wait_until_ready(2)
        head.application.remember_golden()
        callers = Callers(head.application)
        assert replicas_below(psutil.Process(machine.pid), "Engine")
        with callers.calling():
            machine.terminate()
            machine.wait(2 * _DRAIN_S)
        log = log_file.read_text()
        assert "finished draining" in log, log
    assert set(callers.statuses) == {200}, callers.statuses
    assert_well(head.application)
