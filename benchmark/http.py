"""A small load generator: streamed chat completions over HTTP, at fixed numbers of callers.

    python -m benchmark.http --url http://127.0.0.1:8000 --path /chat/completions

Start the server in another process first, say on the checkpoint that `python -m benchmark.engine`
leaves in the temporary folder:

    phi3v serve --model /tmp/phi3v-bench/phi3v-mid --dtype bfloat16 --no-auth

Each of 1, 4 and 16 callers asks again as soon as it has its answer: distinct prompts of about 125
tokens, answers of 64. Output tokens per second are over the time from the first request to the
last answer; TTFT is the time to the first piece of text, ITL the time between two pieces. Any
endpoint that streams as OpenAI's or Azure's do will serve: this imports nothing of the server.

Give --url more than once to compare servers in turns, round by round; --path, --model and
--api-key then once for all or once for each, and the ratio is to the first. A server that ends
answers early needs --extra-body '{"ignore_eos": true}'; no mid-sized checkpoint does.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from .http_client import Answer, Endpoint, ask

# Ordinary words, a token each for most vocabularies.
_WORDS = """
the of and to in a is that for it was on are as with his they at be this from have or by one
had not but what all were when we there can an your which their said if do will each about
how up out them then she many some so these would other into has more her two like him see
time could no make than first been its who now people my made over did down only way find
use may water long little very after words called just where most know get through back
much before go good new write our used me man too any day same right look think also around
another came come work three word must because does part even place well such here take why
things help put years different away again off went old number great tell men say small
"""
_WORDS_PER_PROMPT = 108  # about 125 tokens with the template around them
_CALLERS_AND_REQUESTS = {1: 8, 4: 16, 16: 32}


@dataclass(frozen=True)
class Level:
    """One run of some callers against one server. Milliseconds; NaN where nothing came."""

    tokens_per_s: float
    ttft_p50: float
    ttft_p90: float
    itl_p50: float
    itl_p99: float
    num_errors: int
    prompt_tokens: float


def main() -> None:
    options = _options()
    endpoints: list[Endpoint] = options.endpoints
    for number, endpoint in enumerate(endpoints):
        print(f"{number + 1}: {endpoint.url}{endpoint.path}")
    prompts = _prompts(options.seed)
    found = asyncio.run(_run(options, endpoints, prompts))
    _print(found, options.callers)
    if options.json:
        levels = [
            {"callers": callers, "url": endpoint.url, "rounds": [asdict(x) for x in runs]}
            for callers, by_endpoint in found.items()
            for endpoint, runs in zip(endpoints, by_endpoint, strict=True)
        ]
        options.json.write_text(json.dumps(levels, indent=1) + "\n")
    if all(x.num_errors for by in found.values() for runs in by for x in runs):
        sys.exit("no run went without errors")


async def _run(
    options: argparse.Namespace, endpoints: list[Endpoint], prompts: Iterator[str]
) -> dict[int, list[list[Level]]]:
    """→ by the number of callers, for each endpoint, its rounds."""
    for endpoint in endpoints:
        warm_up = [next(prompts) for _ in range(4)]
        for answer in await _closed_loop(options, endpoint, 2, warm_up):
            if answer.error:
                sys.exit(f"{endpoint.url}{endpoint.path}: {answer.error}")
    found: dict[int, list[list[Level]]] = {}
    for callers in options.callers:
        found[callers] = [[] for _ in endpoints]
        num_requests = options.requests or _CALLERS_AND_REQUESTS.get(callers, 2 * callers)
        for _ in range(options.rounds):
            asked = [next(prompts) for _ in range(num_requests)]
            for runs, endpoint in zip(found[callers], endpoints, strict=True):
                answers = await _closed_loop(options, endpoint, callers, asked)
                runs.append(_level(answers))
    return found


async def _closed_loop(
    options: argparse.Namespace, endpoint: Endpoint, callers: int, prompts: list[str]
) -> list[Answer]:
    """Some callers share out the prompts, each asking the next as soon as it has its answer."""
    waiting = iter(prompts)
    answers: list[Answer] = []

    async def caller() -> None:
        for prompt in waiting:
            answers.append(await ask(endpoint, prompt, options.max_tokens, options.timeout_s))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return answers


def _level(answers: list[Answer]) -> Level:
    whole = [answer for answer in answers if answer.error is None]
    for error in sorted({answer.error for answer in answers if answer.error}):
        print(f"error: {error}", file=sys.stderr)
    seconds = max(a.end for a in answers) - min(a.start for a in answers)
    ttfts = [answer.ttft_s * 1e3 for answer in whole]
    gaps = [gap * 1e3 for answer in whole for gap in answer.gaps_s]
    return Level(
        tokens_per_s=sum(answer.num_tokens for answer in whole) / seconds,
        ttft_p50=_percentile(ttfts, 50),
        ttft_p90=_percentile(ttfts, 90),
        itl_p50=_percentile(gaps, 50),
        itl_p99=_percentile(gaps, 99),
        num_errors=len(answers) - len(whole),
        prompt_tokens=sum(a.num_prompt_tokens for a in whole) / max(len(whole), 1),
    )


def _percentile(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else float("nan")
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def _prompts(seed: int) -> Iterator[str]:
    """Distinct from their first word on, so that no server's prefix cache knows them."""
    choose, words = random.Random(seed), _WORDS.split()
    for number in count():
        yield f"{seed:06}-{number}: " + " ".join(choose.choices(words, k=_WORDS_PER_PROMPT))


def _print(found: dict[int, list[list[Level]]], callers: list[int]) -> None:
    """Medians over the rounds, and the tokens per second beside the first server's."""
    print(
        f"{'callers':>7} {'server':>6} {'tokens/s':>22} {'TTFT p50':>9} {'p90':>8} {'ITL p50':>8} "
        f"{'p99':>8} {'errors':>6} {'prompt':>6} {'first is, ×':>18}"
    )
    for number in callers:
        first = [run.tokens_per_s for run in found[number][0]]
        for server, runs in enumerate(found[number]):
            speeds = [run.tokens_per_s for run in runs]
            line = f"{number:7} {server + 1:6} {_spread(speeds, 1):>22}"
            for name, width in (("ttft_p50", 9), ("ttft_p90", 8), ("itl_p50", 8), ("itl_p99", 8)):
                line += f" {median(getattr(run, name) for run in runs):{width}.1f}"
            line += f" {sum(run.num_errors for run in runs):6}"
            line += f" {median(run.prompt_tokens for run in runs):6.0f}"
            if server and all(speeds):
                ratios = [a / b for a, b in zip(first, speeds, strict=True)]
                line += f" {_spread(ratios, 2):>18}"
            print(line)


def _spread(values: list[float], digits: int) -> str:
    middle, low, high = (f"{f(values):.{digits}f}" for f in (median, min, max))
    return f"{middle} ({low}–{high})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", action="append", help="default: http://127.0.0.1:8000")
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
    urls = [url.rstrip("/") for url in options.url or ["http://127.0.0.1:8000"]]

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
    options.endpoints = [Endpoint(*values, options.extra_body) for values in fields]
    return options


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
