"""How many times the rate that was measured this load generator could have measured.

It asks a server that answers at once the same chats, by as many callers as were open at a time, and
gets answers as long; what it reaches there, it divides by the most that it measured.
"""

import asyncio
import itertools
from dataclasses import dataclass, replace

from .client import Client
from .endpoint import Endpoint
from .loops import Stop, Talk
from .null_server import NullServerError, null_server
from .run import Level
from .summary import summarize
from .workload import Workload

ENOUGH = 20.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Headroom:
    """headroom: the smaller of both ratios of rates, null server's ÷ measured; is_enough: at least
    20, so that what the load generator costs is not in the figures."""

    headroom: float
    is_enough: bool
    null_output_tokens_per_s: float
    null_requests_per_s: float
    measured_output_tokens_per_s: float
    measured_requests_per_s: float
    num_callers: int


def measure_headroom(
    levels: list[Level], workload: Workload, style: Endpoint, seconds: float
) -> Headroom | None:
    """None where nothing was answered, or the server that answers at once is not there or answers
    nothing: no figure is better than a wrong one. style: the endpoint that was measured."""
    rounds = [found for level in levels for found in level.rounds if found.summary.num_whole]
    if not rounds:
        return None
    tokens_per_s = max(found.summary.output_tokens_per_s for found in rounds)
    requests_per_s = max(found.summary.requests_per_s for found in rounds)
    num_callers = max(found.max_running for found in rounds)
    num_tokens = max(found.summary.output_tokens or 1 for found in rounds)
    try:
        with null_server(max(round(num_tokens), 1)) as url:
            endpoint = replace(style, url=f"{url}/chat/completions")
            talk = asyncio.run(_talk(endpoint, workload, num_callers, Stop(duration_s=seconds)))
    except NullServerError:
        return None
    null = summarize(talk.answers)
    if not null.num_whole:
        return None
    headroom = min(
        null.output_tokens_per_s / tokens_per_s,
        null.requests_per_s / requests_per_s,
    )
    return Headroom(
        headroom,
        headroom >= ENOUGH,
        null.output_tokens_per_s,
        null.requests_per_s,
        tokens_per_s,
        requests_per_s,
        num_callers,
    )


async def _talk(endpoint: Endpoint, workload: Workload, num_callers: int, stop: Stop) -> Talk:
    client = Client(endpoint, _TIMEOUT_S)
    talk = Talk(client, workload, itertools.count(), lambda answer: None)
    await talk.closed_loop(num_callers, stop)
    client.close()
    return talk
