"""What Ray finds in the class that it makes replicas of. Needs no cluster."""

import inspect
import warnings

import pytest

pytest.importorskip("ray", reason="the extra ray is not installed")

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of Ray's own modules
    from server.ray.engine_replica import EngineReplica


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "outputs",
        "record_routing_stats",
        "record_autoscaling_stats",
        "check_health",
    ],
)
def test_what_ray_calls_runs_in_the_replicas_event_loop(name: str) -> None:
    """Ray runs plain methods in threads. There a report counted the queued tokens of open requests
    while the event loop opened and closed some: "dictionary changed size during iteration"."""
    method = getattr(EngineReplica, name)
    assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
