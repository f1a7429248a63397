"""Whether memory stays flat while requests leave: waiting, in the middle of a prompt, while a
picture is encoded, while they decode."""

import gc
import random
from collections.abc import Iterator

import psutil
import torch

from scoring.engine import Engine
from scoring.image_processor import HDPicture
from scoring.kv_cache import bytes_per_token
from scoring.sequence import Sequence

from ..systems import run_to_end
from .lab import Lab, synchronize
from .prompts import noise, picture_sequence, text_sequence
from .table import Row

CHECK = "aborts"
_MAX_NUM_SEQS, _MAX_MODEL_LEN = 16, 4096
# Less than so many rows may want together: some are preempted.
_CACHE_TOKENS = 2 * _MAX_MODEL_LEN
_PICTURES, _PICTURE_SHARE = 6, 0.15
_MAX_PROMPT, _MAX_OUTPUT, _ANSWER = 600, 64, 8
# More than run at once, so that some leave the queue.
_AT_ONCE, _MAX_STEPS_BETWEEN = 24, 3
# What torch allocates on a GPU is counted exactly. A process's memory is not: what is freed stays
# with it, more or less of it.
_BOUND_MIB = {"cuda": 1.0, "cpu": 64.0}


def check_aborts(lab: Lab) -> Iterator[Row]:
    config, dtype = lab.model_config, getattr(torch, lab.half)
    pictures = [noise(config.vision, seed, lab.effort.abort_crops) for seed in range(_PICTURES)]
    picture_bytes = pictures[0].num_tokens * config.text.hidden_size * dtype.itemsize
    engine = lab.build(
        lab.model,
        lab.half,
        max_num_seqs=_MAX_NUM_SEQS,
        max_model_len=_MAX_MODEL_LEN,
        kv_cache_bytes=_CACHE_TOKENS * bytes_per_token(config, dtype),
        # Room for some of the pictures, so that they are encoded again and again.
        feature_cache_bytes=_PICTURES // 2 * picture_bytes,
    )
    rng = random.Random(5)
    _come_and_leave(engine, pictures, lab.effort.aborts // 5, rng)
    before = _settled_bytes(lab, engine, pictures)
    num_decoded = _come_and_leave(engine, pictures, lab.effort.aborts, rng)
    grown = (_settled_bytes(lab, engine, pictures) - before) / 2**20
    subject = f"{lab.effort.aborts:,} requests left"
    what = "allocated" if lab.device == "cuda" else "the process's"
    yield Row(CHECK, subject, f"memory grown, {what}", grown, "MiB", at_most=_BOUND_MIB[lab.device])
    stats = engine.stats()
    missing = stats.num_blocks - stats.num_blocks_free - stats.num_blocks_cached
    yield Row(CHECK, subject, "cache blocks missing", missing, at_most=0)
    yield Row(CHECK, subject, "left while they decoded", num_decoded, at_least=1)
    yield Row(CHECK, subject, "pictures encoded", stats.num_pictures_encoded, at_least=1)
    (answer,) = run_to_end(engine, [text_sequence(0, 20, _ANSWER)]).values()
    yield Row(CHECK, subject, "a request afterwards gets", len(answer), "tokens", at_least=_ANSWER)


def _come_and_leave(
    engine: Engine, pictures: list[HDPicture], num_requests: int, rng: random.Random
) -> int:
    """→ how many left while they decoded."""
    there: list[Sequence] = []
    num_come = num_decoded = 0
    while num_come < num_requests or there:
        while len(there) < _AT_ONCE and num_come < num_requests:
            sequence = _sequence(pictures, num_come, rng)
            engine.add(sequence)
            there.append(sequence)
            num_come += 1
        for _ in range(rng.randint(1, _MAX_STEPS_BETWEEN)):
            engine.step()
        for _ in range(min(len(there), 4)):
            leaving = there.pop(rng.randrange(len(there)))
            num_decoded += leaving.num_output_tokens > 0
            engine.abort(leaving.id)
    while engine.has_work:
        engine.step()
    return num_decoded


def _sequence(pictures: list[HDPicture], number: int, rng: random.Random) -> Sequence:
    if rng.random() < _PICTURE_SHARE:
        return picture_sequence(rng.choice(pictures), number, _MAX_OUTPUT)
    return text_sequence(number, rng.randint(1, _MAX_PROMPT), _MAX_OUTPUT)


def _settled_bytes(lab: Lab, engine: Engine, pictures: list[HDPicture]) -> int:
    """Memory once no picture is half encoded, with the feature cache as full as it gets."""
    for seed, picture in enumerate(pictures):
        run_to_end(engine, [picture_sequence(picture, seed, 1)])
    gc.collect()
    if lab.device == "cuda":
        synchronize(lab.torch_device)
        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)
