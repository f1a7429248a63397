"""Measures what the largest step takes, by running it: before there is a cache, on a small one.

Every block table names the same few blocks again and again, so that the longest context can be
attended to without room for it; what comes out is noise, and nobody looks at it.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from model_config import VisionConfig

from .encoder_progress import CROP_PARTS, EncoderJob
from .image_processor import HDPicture
from .memory_plan import LargestStep, StepMemory
from .model_runner import ModelRunner
from .scheduler import ScheduledRow
from .sequence import SamplingParams, Sequence
from .static_decode import MakeGraph


class Meter(Protocol):
    """Measures memory, in bytes."""

    def peak(self, work: Callable[[], object]) -> int:
        """The most that the work has at a time, beyond what there was before."""

    def kept(self, work: Callable[[], object]) -> int:
        """What the work leaves behind, memory that only the driver knows of included."""


class CudaMeter:
    """Of the current CUDA device."""

    def peak(self, work: Callable[[], object]) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def kept(self, work: Callable[[], object]) -> int:
        torch.cuda.empty_cache()
        before, _ = torch.cuda.mem_get_info()
        work()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        after, _ = torch.cuda.mem_get_info()
        return max(before - after, 0)


# Of the sequences that decode: together as many keys as a gather takes at a time.
_OTHERS_CONTEXT = 1024
# Of a GPU's memory, what may be used in all; the rest is for the driver and fragmentation.
GPU_FRACTION = 0.9


def cuda_limit() -> int:
    """What this process may have of the current device's memory, beside what others have of it."""
    free, total = torch.cuda.mem_get_info()
    others = total - free - torch.cuda.memory_reserved()
    return int(GPU_FRACTION * total) - others


def measure_step(
    runner: ModelRunner,
    largest: LargestStep,
    vision: VisionConfig,
    meter: Meter,
    make_graph: MakeGraph | None,
) -> StepMemory:
    """runner: around a cache of any size, not used for anything else. make_graph: None where
    nothing is captured."""
    pictures = meter.peak(lambda: _encode(runner, largest.max_crops, vision))
    prompts = meter.peak(lambda: _run(runner, largest))
    graphs = 0
    if make_graph is not None:
        graphs = meter.kept(lambda: runner.capture(make_graph, largest.context))
    return StepMemory(prompts, pictures, graphs)


def _encode(runner: ModelRunner, max_crops: int, vision: VisionConfig) -> None:
    """Pictures that need all crops of a step, each as large as pictures get."""
    size = vision.crop_size
    num_crops = max(2, min(max_crops, vision.num_crops + 1))
    pixels = np.zeros((size, (num_crops - 1) * size, 3), dtype=np.uint8)
    num_parts = num_crops * CROP_PARTS
    rows = []
    for number in range(max(1, max_crops // num_crops)):
        picture = HDPicture(pixels, b"probe %d" % number, 0)
        sequence = Sequence(f"probe {number}", [1, 1], SamplingParams(max_tokens=1))
        rows.append(ScheduledRow(sequence, 0, 0, (EncoderJob(picture, 0, num_parts, num_parts),)))
    runner.launch(rows).sample().collect()


def _run(runner: ModelRunner, largest: LargestStep) -> None:
    """The end of the longest prompt, and a token of everybody else."""
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.5)
    num_others = largest.max_num_seqs - 1
    others = min(largest.context, _OTHERS_CONTEXT)
    chunk = min(largest.max_num_batched_tokens - num_others, largest.context)
    rows = [
        ScheduledRow(_sequence(runner, f"probe {number}", others, params), others - 1, 1)
        for number in range(num_others)
    ]
    longest = _sequence(runner, "probe", largest.context, params)
    rows.append(ScheduledRow(longest, largest.context - chunk, chunk))
    runner.launch(rows).sample().collect()


def _sequence(runner: ModelRunner, name: str, length: int, params: SamplingParams) -> Sequence:
    sequence = Sequence(name, [1] * length, params)
    num_blocks = -(-length // runner.block_size)
    sequence.block_table = [block % runner.num_blocks for block in range(num_blocks)]
    return sequence
