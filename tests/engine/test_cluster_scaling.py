"""How many engines of a cluster the work asks for."""

from types import SimpleNamespace
from typing import Any

import pytest

from server.ray.autoscaling import ScalingPolicy, wanted_replicas


@pytest.mark.parametrize(
    ("num_requests", "queued_tokens", "wanted"),
    [
        (0, 0, 1),  # never none: the first request would wait for a model to load
        (24, 0, 1),
        (25, 0, 2),  # 24 of 32 places are three quarters
        (240, 0, 10),
        (1, 1000, 1),
        (1, 1001, 2),  # few requests, but long ones
        (240, 2000, 10),
        (24, 5000, 5),
    ],
)
def test_enough_places_and_no_long_queue(
    num_requests: int, queued_tokens: int, wanted: int
) -> None:
    assert wanted_replicas(num_requests, queued_tokens, 32, 1000) == wanted


def test_the_policy_adds_up_what_the_replicas_say() -> None:
    def context(**metrics: dict[str, float | None]) -> Any:
        return SimpleNamespace(aggregated_metrics=metrics)

    policy = ScalingPolicy(32, 1000)
    assert policy(context(requests={"a": 30.0, "b": 19.0}))[0] == 3
    assert policy(context(requests={"a": 1.0, "b": None}, queued_tokens={"a": 2500.0}))[0] == 3
    assert policy(context())[0] == 1
