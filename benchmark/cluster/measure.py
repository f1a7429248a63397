"""Measures the engine's step on this machine, for simulations:

    python -m benchmark.cluster.measure [--size mid | --model DIR] [--device cpu] --to FILE

Steps are put together by hand and run by the engine's own runner: rows that decode, a prompt's
chunk at its beginning and far into it, crops of a picture. Each is run several times, and the
shortest counts: what else the machine does makes steps longer, never shorter. A host that is slower
than its device is not seen here: gpu-check's `decode` tells.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch

from model_config import ModelConfig, from_checkpoint
from scoring.checkpoint import locate_checkpoint
from scoring.encoder_progress import CROP_PARTS, EncoderJob
from scoring.engine_builder import SHARES
from scoring.engine_config import DeviceName
from scoring.errors import CheckpointError
from scoring.image_processor import HDPicture
from scoring.kv_cache import bytes_per_token
from scoring.model_runner import ModelRunner
from scoring.scheduler import ScheduledRow
from scoring.sequence import SamplingParams, Sequence

from ..checkpoints import random_checkpoint
from ..gpu_check.inside import backend_name, runner_of
from ..gpu_check.lab import build
from ..provenance import commit, hardware, version
from .step_times import StepTimes

_ROWS = (1, 2, 4, 8, 16, 32)
_CHUNKS = (48, 64, 96, 128, 256, 512, 1024, 2048)  # tokens of steps with a prompt
_SHORT, _LONG = 64, 2048  # contexts of decoding rows
_LONG_ROWS = 8
_PAIR_CHUNK = 256
_CROPS = 5
# Steps that are not counted; that are at least; and for how long there are more.
_WARM_UP, _REPEATS, _REPEAT_S = 1, 4, 5.0


@dataclass(frozen=True)
class _Bench:
    """Times steps. Blocks are handed out anew for each."""

    runner: ModelRunner
    config: ModelConfig

    def decode(self, rows: int, context: int) -> float:
        return self._best(lambda: self._rows([(context, 1)] * rows))

    def prompt(self, start: int, num_tokens: int) -> float:
        return self._best(lambda: self._rows([(start, num_tokens)]))

    def crops(self, number: int) -> float:
        names = count()
        size = self.config.vision.crop_size
        pixels = np.zeros((size, (number - 1) * size, 3), dtype=np.uint8)

        def rows() -> list[ScheduledRow]:
            """Of a picture that has not been seen."""
            picture = HDPicture(pixels, b"%d" % next(names), 0)
            sequence = Sequence("picture", [1, 1], SamplingParams(max_tokens=1))
            parts = number * CROP_PARTS
            return [ScheduledRow(sequence, 0, 0, (EncoderJob(picture, 0, parts, parts),))]

        return self._best(rows) / number

    def _rows(self, parts: Items[tuple[int, int]]) -> list[ScheduledRow]:
        """parts: (tokens before, tokens to compute) of each row."""
        blocks, rows = count(), []
        for number, (start, num_tokens) in enumerate(parts):
            length = start + num_tokens
            sequence = Sequence(str(number), [1] * length, SamplingParams(max_tokens=1))
            wanted = -(-length // self.runner.block_size)
            sequence.block_table = [next(blocks) for _ in range(wanted)]
            rows.append(ScheduledRow(sequence, start, num_tokens))
        assert next(blocks) <= self.runner.num_blocks
        return rows

    def _best(self, make_rows: Callable[[], list[ScheduledRow]]) -> float:
        return min(list(self._times(make_rows))[_WARM_UP:])

    def _times(self, make_rows: Callable[[], list[ScheduledRow]]) -> Iterator[float]:
        begun = time.perf_counter()
        for number in count():
            rows = make_rows()
            start = time.perf_counter()
            if number >= _WARM_UP + _REPEATS and start - begun > _REPEAT_S:
                return
            self.runner.launch(rows).sample().collect()
            yield time.perf_counter() - start


def measure(checkpoint: Path, device: DeviceName) -> StepTimes:
    """Raises CheckpointError where the engine cannot be built."""
    config = from_checkpoint(checkpoint)
    # Twice what the longest contexts take: blocks may be half empty.
    room = 2 * _LONG_ROWS * (_LONG + 1)
    dtype = torch.bfloat16
    engine = build(
        device,
        checkpoint,
        "bfloat16",
        max_num_seqs=max(_ROWS),
        kv_cache_bytes=room * bytes_per_token(config, dtype),
    )
    bench = _Bench(runner_of(engine), config)
    of_tokens = [(rows, bench.decode(rows, _SHORT)) for rows in _ROWS]
    of_tokens += [(chunk, bench.prompt(0, chunk)) for chunk in _CHUNKS]
    context = bench.decode(_LONG_ROWS, _LONG) - bench.decode(_LONG_ROWS, _SHORT)
    pairs = bench.prompt(_LONG, _PAIR_CHUNK) - bench.prompt(0, _PAIR_CHUNK)
    per_pair = max(0.0, pairs) / (_PAIR_CHUNK * _LONG)
    prompt_share, crops_share = SHARES[device]
    source = {
        "measured": "the shortest of several steps each, by the engine's runner",
        "device": _named(device),
        "model": f"{checkpoint.name}: {config.text.num_layers} layers, {config.text.hidden_size} "
        f"wide; tower {config.vision.num_layers} layers, {config.vision.hidden_size} wide",
        "dtype": "bfloat16",
        "attention": backend_name(engine),
        "torch": version("torch"),
        "commit": commit(),
        "hardware": hardware(),
    }
    return StepTimes(
        of_tokens=tuple(_rising(of_tokens, per_pair)),
        per_context=max(0.0, context) / (_LONG_ROWS * (_LONG - _SHORT)),
        per_pair=per_pair,
        per_crop=bench.crops(_CROPS),
        prompt_share=prompt_share,
        crops_share=crops_share,
        source=source,
    )


def _named(device: DeviceName) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{threads} core{'s' if threads > 1 else ''} of a CPU"


def _rising(points: Items[tuple[int, float]], per_pair: float) -> Iterator[tuple[int, float]]:
    """Without the prompts' own pairs, which are added by per_pair. A step of more tokens never
    takes less: where it seems so, noise is larger than what the tokens cost."""
    longest = 0.0
    for tokens, seconds in points:
        pairs = tokens * (tokens + 1) / 2 if tokens > max(_ROWS) else 0.0
        longest = max(longest, seconds - per_pair * pairs)
        yield tokens, longest


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.cluster.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=("tiny", "mid", "full"), default="mid")
    parser.add_argument("--model", help="genuine weights instead: a directory, or a hub id")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--to", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    try:
        checkpoint = (
            locate_checkpoint(options.model, None)
            if options.model
            else random_checkpoint(options.size)
        )
        measure(checkpoint, options.device).save(options.to)
    except CheckpointError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
