"""The load generator's client, asked from a test."""

import asyncio
import itertools
from typing import Any

from benchmark.load.answer import Answer
from benchmark.load.client import Client
from benchmark.load.endpoint import Endpoint
from benchmark.load.loops import Stop, Talk
from benchmark.load.workload import Workload

HELLO = [{"role": "user", "content": "hello"}]
SHORT = Workload("text", prompt_tokens=32, max_tokens=8, turns=3, image_px=64, seed=1)


def ask(url: str, times: int = 1, timeout_s: float = 10.0, max_tokens: int = 8) -> list[Answer]:
    """One chat after the other, by one client."""

    async def run() -> list[Answer]:
        client = Client(Endpoint(f"{url}/v1/chat/completions", "openai"), timeout_s)
        try:
            return [await client.ask(HELLO, max_tokens) for _ in range(times)]
        finally:
            client.close()

    return asyncio.run(run())


def talk(url: str, loop: str, load: float, stop: Stop, **options: Any) -> Talk:
    """A run of one of Talk's loops, closed_loop or open_loop, to its end."""
    workload = options.get("workload", SHORT)

    async def run() -> Talk:
        client = Client(
            Endpoint(f"{url}/chat/completions", "azure"), options.get("timeout_s", 10.0)
        )
        found = Talk(client, workload, itertools.count(), lambda answer: None)
        await getattr(found, loop)(load, stop)
        client.close()
        return found

    return asyncio.run(run())
