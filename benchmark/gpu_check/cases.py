"""What parity is held to: the published code's outputs for the tiny checkpoint, where its files are
at hand; else those of our own float32 forward on the CPU, which the tests hold to the former."""

import json
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_config import VisionConfig, from_checkpoint
from scoring.engine import Engine
from scoring.image_processor import to_hd_picture
from scoring.model_runner import LaunchedRows, ModelRunner
from scoring.scheduler import ScheduledRow
from scoring.sequence import ImageSpan, Sequence

from ..systems import run_to_end, to_sequence
from .inside import RunnerAround, runner_of, running
from .lab import build
from .prompts import noise, picture_sequence, text_sequence

Logits = NDArray[np.float32]

# Steps of the runs that we make up, and their prompts' tokens: one of several blocks, and one that
# passes from the short rope regime to the long one.
_STEPS, _SHORT, _CROSSING = 12, 300, 4090


@dataclass(frozen=True)
class Case:
    """A prompt and what must come of it: the logits after it, and the greedy tokens; either may be
    unknown."""

    name: str
    prompt: list[int]
    images: tuple[ImageSpan, ...]
    logits: Logits | None = None
    tokens: list[int] = field(default_factory=list)

    def to_sequence(self) -> Sequence:
        return to_sequence(self.prompt, max(1, len(self.tokens)), self.images)


def golden_cases(directory: Path, vision: VisionConfig, names: Items[str] | None) -> list[Case]:
    """From the published code's files. names: None for all."""
    listed = json.loads((directory / "cases.json").read_text(encoding="utf-8"))

    def case(name: str, file: str, images: list[str], tokens: list[int]) -> Case:
        with np.load(directory / f"{file}.npz") as arrays:
            prompt = arrays["input_ids"].tolist()
            logits = None if tokens else arrays["last_logits"]
        spans = []
        for number, image in enumerate(images, start=1):
            with Image.open(directory / "images" / f"{image}.png") as picture:
                hd = to_hd_picture(picture.convert("RGB"), vision)
            spans.append(ImageSpan(hd, prompt.index(-number)))
        return Case(name, prompt, tuple(spans), logits, tokens)

    forward: dict[str, Any] = listed["cases"]
    runs: dict[str, Any] = listed["generate"]
    found = [case(name, name, it["images"], []) for name, it in forward.items()]
    found += [
        # Where the published code goes on with stale keys, the tokens of a full recomputation.
        case(f"{name}, run", f"gen_{name}", it["images"], it.get("ideal_new_ids", it["new_ids"]))
        for name, it in runs.items()
    ]
    return [c for c in found if names is None or c.name.removesuffix(", run") in names]


def own_cases(checkpoint: Path, *, with_long: bool) -> list[Case]:
    """From our own plain forward. with_long: also a prompt that crosses to the long rope regime."""
    vision = from_checkpoint(checkpoint).vision
    sequences = {
        "text": text_sequence(1, _SHORT, _STEPS),
        "picture of 1 crop": picture_sequence(noise(vision, 2, 1), 2, _STEPS),
    }
    if with_long:
        sequences["picture of 16 crops"] = picture_sequence(noise(vision, 3, 16), 3, _STEPS)
        sequences["crossing 4,096"] = text_sequence(4, _CROSSING, _STEPS)
    engine = build("cpu", checkpoint, "float32", kernels="eager")
    prompts = {name: list(sequence.token_ids) for name, sequence in sequences.items()}
    logits, tokens = logits_and_tokens(engine, list(sequences.values()))
    return [
        Case(name, prompts[name], it.images, logits[it.id], tokens[it.id])
        for name, it in sequences.items()
    ]


def logits_and_tokens(
    engine: Engine, sequences: Items[Sequence]
) -> tuple[dict[str, Logits], dict[str, list[int]]]:
    """Run all together. → by id, the logits after the prompt, and the tokens."""
    watch = _FirstLogits(runner_of(engine))
    with running(engine, watch):
        outputs = run_to_end(engine, sequences)
    tokens = {
        name: [output.token_id for output in of_one if output.token_id is not None]
        for name, of_one in outputs.items()
    }
    return watch.seen, tokens


class _FirstLogits(RunnerAround):
    """Keeps each sequence's first logits."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner)
        self.seen: dict[str, Logits] = {}

    def see(self, rows: Items[ScheduledRow], launched: LaunchedRows) -> None:
        emitting = [row.sequence.id for row in rows if row.emits]
        for index, name in enumerate(emitting):
            if name not in self.seen and launched.logits is not None:
                self.seen[name] = launched.logits[index].float().cpu().numpy().copy()
