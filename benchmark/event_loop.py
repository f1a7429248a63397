"""Whether pictures that others send hold up the API: how long GET /health/live takes, asked all the
time, while four callers send the largest pictures there are.

    python -m benchmark.event_loop [--seconds 15] [--checkpoint DIR]

The answer needs nothing but the event loop, so its time is the loop's lag and what the network and
the operating system add; the same is measured before, on the idle server. A caller's pictures are
in turn a photograph of 39 megapixels and a body of 28 MB, each answered with one token.
"""

import argparse
import base64
import http.client
import io
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from .checkpoints import random_checkpoint
from .own_server import OwnServer

_CALLERS, _PAUSE_S = 4, 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: a tiny one of random weights")
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    bodies = _bodies()
    checkpoint = options.checkpoint or random_checkpoint("tiny")
    with (
        OwnServer(checkpoint, "--max-body-mib", "64") as server,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as callers,
    ):
        print(f"{'':10} {'answers':>8} {'p50, ms':>8} {'p99, ms':>8} {'max, ms':>8}")
        _print("idle", _latencies(server.url, options.seconds / 3))
        sent = callers.submit(_send_for, server.url, bodies, options.seconds)
        _print("pictures", _latencies(server.url, options.seconds))
        print(f"{sent.result()} pictures answered meanwhile")


def _latencies(url: str, seconds: float) -> list[float]:
    """Of one answer after the other, in milliseconds."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        latencies.append((time.perf_counter() - start) * 1e3)
        time.sleep(_PAUSE_S)
    return latencies


def _print(title: str, latencies: list[float]) -> None:
    percentiles = quantiles(latencies, n=100, method="inclusive")
    print(
        f"{title:10} {len(latencies):8} {percentiles[49]:8.1f} {percentiles[98]:8.1f} "
        f"{max(latencies):8.1f}",
        flush=True,
    )


def _bodies() -> list[bytes]:
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    noise = Image.fromarray(random.integers(0, 256, (2640, 2640, 3), dtype=np.uint8))
    return [
        _body(smooth.resize((7200, 5400)), "JPEG"),
        _body(noise, "PNG"),
    ]


def _body(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    url = f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    content = [{"type": "text", "text": "What is this?"}, image]
    return json.dumps(
        {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    ).encode()


def _send_for(url: str, bodies: list[bytes], seconds: float) -> int:
    """→ answers of all callers together."""
    end = time.perf_counter() + seconds

    def caller(number: int) -> int:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        answers = 0
        while time.perf_counter() < end:
            body = bodies[(number + answers) % len(bodies)]
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/chat/completions", body, headers)
            response = connection.getresponse()
            text = response.read()
            if response.status != http.HTTPStatus.OK:
                raise RuntimeError(f"{response.status}: {text[:500]!r}")
            answers += 1
        return answers

    with ThreadPoolExecutor(_CALLERS) as threads:
        return sum(threads.map(caller, range(_CALLERS)))


if __name__ == "__main__":
    main()
