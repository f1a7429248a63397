"""Servers beside each other under the same load: streamed chats, at fixed numbers of callers.

Start the servers first, each in a terminal of its own. Beside vLLM, on the same random weights:

    python -m benchmark.checkpoints small     makes them, and prints where: the model and its twin
    phi3v serve --model /tmp/phi3v-bench/random-small --dtype bfloat16
    (vLLM on /tmp/phi3v-bench/random-small-text, in bfloat16, as its documentation says)
    python -m benchmark.http --url http://127.0.0.1:5001 --url http://127.0.0.1:8000

Each of 1, 4 and 16 callers asks again as soon as it has its answer: distinct prompts of about 125
tokens, answers of 64. For one server, with more to choose and a report: `phi3v bench`, whose load
generator this uses, and whose documentation says what the figures mean.

Give --url more than once to compare servers in turns, round by round, on a machine that is not
always as fast; --path, --model and --api-key then once for all or once for each, and the ratio is
to the first. A server that ends answers early needs --extra-body '{"ignore_eos": true}'; on the
random checkpoints none does.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from .load.client import Client
from .load.endpoint import Endpoint
from .load.loops import Stop, Talk
from .load.summary import Summary, summarize
from .load.workload import Workload
from .report import spread

OURS = "http://127.0.0.1:5001"  # where `phi3v serve` listens
_PROMPT_TOKENS = 125
_CALLERS_AND_REQUESTS = {1: 8, 4: 16, 16: 32}
_WARM_UP_CALLERS, _WARM_UP_REQUESTS = 2, 4
Rounds = list[Summary]


def main() -> None:
    options = _options()
    endpoints: list[Endpoint] = options.endpoints
    for number, endpoint in enumerate(endpoints):
        print(f"{number + 1}: {endpoint.url}")
    found = asyncio.run(_run(options, endpoints))
    _print(found)
    if options.json:
        levels = [
            {"callers": callers, "url": endpoint.url, "rounds": [asdict(x) for x in rounds]}
            for callers, by_endpoint in found.items()
            for endpoint, rounds in zip(endpoints, by_endpoint, strict=True)
        ]
        options.json.write_text(json.dumps(levels, indent=1) + "\n")
    if all(x.errors for by_endpoint in found.values() for rounds in by_endpoint for x in rounds):
        sys.exit("no run went without errors")


async def _run(options: argparse.Namespace, endpoints: list[Endpoint]) -> dict[int, list[Rounds]]:
    """→ by the number of callers, for each endpoint, its rounds."""
    workload = Workload("text", _PROMPT_TOKENS, options.max_tokens, 1, 1, options.seed)
    numbers = itertools.count()
    for endpoint in endpoints:
        warm = await _closed_loop(
            options, endpoint, workload, numbers, _WARM_UP_CALLERS, _WARM_UP_REQUESTS
        )
        if warm.errors:
            sys.exit(f"{endpoint.url}: {warm.error_details}")
    found: dict[int, list[Rounds]] = {}
    for callers in options.callers:
        found[callers] = [[] for _ in endpoints]
        num_requests = options.requests or _CALLERS_AND_REQUESTS.get(callers, 2 * callers)
        for _ in range(options.rounds):
            first = next(numbers)
            for rounds, endpoint in zip(found[callers], endpoints, strict=True):
                # All servers are asked the same.
                numbers = itertools.count(first)
                rounds.append(
                    await _closed_loop(options, endpoint, workload, numbers, callers, num_requests)
                )
    return found


async def _closed_loop(
    options: argparse.Namespace,
    endpoint: Endpoint,
    workload: Workload,
    numbers: Iterator[int],
    callers: int,
    num_requests: int,
) -> Summary:
    client = Client(endpoint, options.timeout_s)
    talk = Talk(client, workload, numbers, lambda answer: None)
    await talk.closed_loop(callers, Stop(num_requests))
    client.close()
    summary = summarize(talk.answers)
    for kind, detail in summary.error_details.items():
        print(f"error: {kind}: {detail}", file=sys.stderr)
    return summary


def _print(found: dict[int, list[Rounds]]) -> None:
    """Medians over the rounds, and the tokens per second beside the first server's."""
    print(
        f"{'callers':>7} {'server':>6} {'tokens/s':>22} {'TTFT p50':>9} {'p90':>8} {'ITL p50':>8} "
        f"{'p99':>8} {'errors':>6} {'prompt':>6} {'first is, ×':>18}"
    )
    for callers, by_endpoint in found.items():
        first = [run.output_tokens_per_s for run in by_endpoint[0]]
        for server, runs in enumerate(by_endpoint):
            speeds = [run.output_tokens_per_s for run in runs]
            line = f"{callers:7} {server + 1:6} {spread(speeds, 1):>22}"
            line += f" {_middle([run.ttft_ms.p50 for run in runs], 9)}"
            line += f" {_middle([run.ttft_ms.p90 for run in runs], 8)}"
            line += f" {_middle([run.itl_ms.p50 for run in runs], 8)}"
            line += f" {_middle([run.itl_ms.p99 for run in runs], 8)}"
            line += f" {sum(run.num_requests - run.num_whole for run in runs):6}"
            line += f" {_middle([run.prompt_tokens for run in runs], 6, 0)}"
            if server and all(speeds):
                ratios = [a / b for a, b in zip(first, speeds, strict=True)]
                line += f" {spread(ratios, 2):>18}"
            print(line)


def _middle(values: list[float | None], width: int, digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):{width}.{digits}f}" if known else f"{'–':>{width}}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", action="append", help=f"default: {OURS}")
    parser.add_argument("--path", action="append", help="default: /v1/chat/completions")
    parser.add_argument("--model", action="append", help="a name to send; none by default")
    parser.add_argument("--api-key", action="append")
    parser.add_argument("--extra-body", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--callers", type=_numbers, default=list(_CALLERS_AND_REQUESTS))
    parser.add_argument("--requests", type=int, help="per round; default 8, 16, 32 by callers")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout-s", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the prompts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    urls = [url.rstrip("/") for url in options.url or [OURS]]

    def for_each(name: str, default: str | None) -> list[Any]:
        given = getattr(options, name) or [default]
        if len(given) not in (1, len(urls)):
            parser.error(f"--{name.replace('_', '-')}: give one, or one for each --url")
        return given * len(urls) if len(given) == 1 else given

    fields = zip(
        urls,
        for_each("path", "/v1/chat/completions"),
        for_each("model", None),
        for_each("api_key", None),
        strict=True,
    )
    options.endpoints = [
        Endpoint(
            url + path, "openai" if "/v1/" in path else "azure", model, key, options.extra_body
        )
        for url, path, model, key in fields
    ]
    return options


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
