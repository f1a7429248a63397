"""How near decoding comes to the memory's speed.

limit = (weight bytes + bytes of all rows' keys and values) ÷ read bandwidth, per step; fraction =
limit ÷ measured. The bandwidth is measured in this process just before each round.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from scoring.engine import Engine

from .bandwidth import BandwidthProbe, kv_bytes_per_token, weight_bytes_read
from .report import Measurement, Report, spread
from .systems import to_sequence
from .workload import random_tokens

_SECTION = "decode"
_ROWS, _PROMPT, _STEPS = (1, 4, 16), 192, 48
_GOAL_ALONE = 0.60


def measure_decode(report: Report, engine: Engine, twin: Path, rounds: int) -> None:
    probe = BandwidthProbe()
    weights, per_token = weight_bytes_read(twin), kv_bytes_per_token(twin)
    bandwidths: list[float] = []
    milliseconds: dict[int, list[float]] = {rows: [] for rows in _ROWS}
    fractions: dict[int, list[float]] = {rows: [] for rows in _ROWS}
    for number in range(-1, rounds):  # the first warms up
        for rows in _ROWS:
            bandwidth = probe.bytes_per_s()
            steps = list(decode_steps(engine, rows, _PROMPT, _STEPS, seed=number + 1))
            if number < 0:
                continue
            bandwidths.append(bandwidth / 1e9)
            milliseconds[rows].append(median(seconds for seconds, _ in steps) * 1e3)
            limits = ((weights + kv * per_token) / bandwidth / s for s, kv in steps)
            fractions[rows].append(median(limits))
    print(
        f"\ndecode: {weights / 1e6:.0f} MB of weights and {per_token / 1e3:.1f} kB per token of "
        f"context; read bandwidth {spread(bandwidths)} GB/s"
    )
    report.add(Measurement(_SECTION, "read bandwidth", bandwidths, "GB/s"))
    print(f"{'rows':>4} {'context':>8} {'ms per step':>20} {'of the limit':>20}")
    for rows in _ROWS:
        goal = _GOAL_ALONE if rows == 1 else None
        name = f"{rows} row{'s' if rows > 1 else ''}"
        report.add(Measurement(_SECTION, f"{name}, step", milliseconds[rows], "ms", None, False))
        report.add(Measurement(_SECTION, f"{name}, of the limit", fractions[rows], "", goal))
        context = f"{_PROMPT}–{_PROMPT + _STEPS}"
        times, parts = spread(milliseconds[rows]), spread(fractions[rows], 2)
        print(f"{rows:4} {context:>8} {times:>20} {parts:>20}", flush=True)


def decode_steps(
    engine: Engine, rows: int, prompt_len: int, num_steps: int, seed: int
) -> Iterator[tuple[float, int]]:
    """Run rows of fresh prompts until they all decode, and from there so many steps.
    → (seconds, tokens in all rows' context) of each of these, as it ends."""
    random = np.random.default_rng([seed, rows, prompt_len])
    # Prompts are let in little by little, so the first rows run ahead: none may end.
    longest = engine.limits.max_model_len - prompt_len
    sequences = [to_sequence(random_tokens(random, prompt_len), longest) for _ in range(rows)]
    for sequence in sequences:
        engine.add(sequence)
    lengths: dict[str, int] = {}
    try:
        while num_steps:
            context = sum(lengths.values())
            all_decode = len(lengths) == rows
            start = time.perf_counter()
            outputs = engine.step()
            seconds = time.perf_counter() - start
            for output in outputs:
                lengths[output.sequence_id] = lengths.get(output.sequence_id, prompt_len) + 1
            if all_decode:
                num_steps -= 1
                yield seconds, context
    finally:
        for sequence in sequences:
            engine.abort(sequence.id)
