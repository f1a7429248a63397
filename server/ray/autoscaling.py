"""How many engines the work asks for. Ray applies its delays and bounds to what comes out."""

import math
from collections.abc import Iterable
from typing import Any

# Of an engine's places that are taken on average: beyond, bursts would wait.
_FILL = 0.75


def wanted_replicas(
    num_requests: float, queued_tokens: float, max_num_seqs: int, max_queued_tokens: int
) -> int:
    """num_requests: running or waiting, anywhere. queued_tokens: of prompts that wait for their
    first token. max_num_seqs: requests that an engine runs at once. max_queued_tokens: that may
    wait for one engine before another is worth its start."""
    by_requests = math.ceil(num_requests / (_FILL * max_num_seqs))
    by_tokens = math.ceil(queued_tokens / max_queued_tokens)
    return max(1, by_requests, by_tokens)


class ScalingPolicy:
    """Ray Serve's autoscaling policy. Ray imports the class by its name, and makes it in its
    controller."""

    def __init__(self, max_num_seqs: int, max_queued_tokens: int) -> None:
        self._max_num_seqs = max_num_seqs
        self._max_queued_tokens = max_queued_tokens

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """context: Ray's AutoscalingContext, with what EngineReplica.record_autoscaling_stats
        says."""
        metrics = context.aggregated_metrics or {}
        return wanted_replicas(
            _total(metrics.get("requests", {}).values()),
            _total(metrics.get("queued_tokens", {}).values()),
            self._max_num_seqs,
            self._max_queued_tokens,
        ), {}


def _total(values: Iterable[float | None]) -> float:
    return sum(value or 0.0 for value in values)
