"""What prompts take, of what their matrix products take at least; texts and pictures."""

import time
from collections.abc import Iterator
from collections.abc import Sequence as Items
from statistics import median

import torch

from scoring.engine import Engine
from scoring.kv_cache import bytes_per_token
from scoring.sequence import Sequence

from ..matrix_rate import matrix_flops_per_s
from ..systems import run_to_end
from .cost import num_crops, picture_flops, prompt_flops
from .lab import Lab
from .prompts import noise, picture_sequence, text_sequence
from .table import Row

CHECK = "prefill"
_MAX_CROPS, _SPARE = 16, 3000


def check_prefill(lab: Lab) -> Iterator[Row]:
    effort, config = lab.effort, lab.model_config
    dtype = getattr(torch, lab.half)
    room = max(effort.prompts) * effort.prompt_len + _SPARE
    engine = lab.build(
        lab.model,
        lab.half,
        max_num_seqs=max(effort.prompts),
        # Or a prompt that is repeated would not be computed.
        prefix_cache=False,
        kv_cache_bytes=room * bytes_per_token(config, dtype),
    )
    rate = matrix_flops_per_s(lab.torch_device, dtype)
    yield Row(CHECK, "limits", "matrix rate", rate / 1e12, "TFLOP/s", note=lab.half)
    for num_prompts in effort.prompts:
        lengths = [effort.prompt_len] * num_prompts
        times = [
            _seconds(engine, [text_sequence(seed * 100 + i, n, 1) for i, n in enumerate(lengths)])
            for seed in range(effort.repeats + 1)
        ][1:]
        s = "s" if num_prompts > 1 else ""
        subject = f"{num_prompts} prompt{s} of {effort.prompt_len:,}"
        yield from _rows(subject, median(times), prompt_flops(config.text, lengths), rate)
        tokens = sum(lengths) / median(times)
        yield Row(CHECK, subject, "tokens", tokens, "/s")
    yield from _pictures(lab, engine, rate)


def _pictures(lab: Lab, engine: Engine, rate: float) -> Iterator[Row]:
    """Each picture comes twice: first it is encoded, then its features are still there."""
    config = lab.model_config
    whole, decoder = [], []
    for seed in range(lab.effort.repeats + 1):
        picture = noise(config.vision, 1000 + seed, _MAX_CROPS)
        whole.append(_seconds(engine, [picture_sequence(picture, seed, 1)]))
        decoder.append(_seconds(engine, [picture_sequence(picture, seed, 1)]))
    whole, decoder = whole[1:], decoder[1:]
    tower = [a - b for a, b in zip(whole, decoder, strict=True)]
    num_tokens = len(picture_sequence(picture, 0, 1).token_ids)
    crops = num_crops(config.vision, picture.pixels.shape)
    subject = f"picture of {crops - 1} crops"
    tower_flops = picture_flops(config, crops, picture.num_tokens)
    decoder_flops = prompt_flops(config.text, [num_tokens])
    for name, times, flops in (
        ("tower", tower, tower_flops),
        ("decoder", decoder, decoder_flops),
        ("both", whole, tower_flops + decoder_flops),
    ):
        yield from _rows(f"{subject}, {name}", median(times), flops, rate)


def _rows(subject: str, seconds: float, flops: int, rate: float) -> Iterator[Row]:
    yield Row(CHECK, subject, "time", seconds * 1e3, "ms")
    yield Row(CHECK, subject, "of the matrix rate", flops / rate / seconds * 100, "%")


def _seconds(engine: Engine, sequences: Items[Sequence]) -> float:
    """Until each has its first token."""
    start = time.perf_counter()
    run_to_end(engine, sequences)
    return time.perf_counter() - start
