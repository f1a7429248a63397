"""What Ray finds in the class that it makes replicas of. Needs no cluster."""

import asyncio
import inspect
import time
import warnings
from types import SimpleNamespace

import pytest

from server.settings import Settings
from server.tracing import make_tracer

from ..http.test_tracing import PARENT_ID, TRACE_ID, collecting

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


def test_a_replica_that_ends_delivers_its_last_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray awaits `__del__` when it takes one away. Spans of the last seconds were lost."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with collecting() as collector:
        tracer = make_tracer(Settings(otlp_endpoint=collector.url))
        assert tracer is not None
        traceparent = f"00-{TRACE_ID}-{PARENT_ID}-01"
        tracer.export_part("engine", traceparent, time.monotonic(), {})
        assert not collector.spans()
        asyncio.run(EngineReplica.__del__(SimpleNamespace(_tracer=tracer)))
        assert [span.name for span in collector.spans()] == ["engine"]
