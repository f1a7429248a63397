"""The published code's inputs and outputs for the tiny checkpoint."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model_config import VisionConfig
from scoring.image_processor import HDPicture, to_hd_picture
from scoring.sequence import ImageSpan, SamplingParams, Sequence

# Forward passes: prompts, logits and hidden states.
TEXT_CASES = ("text_user", "text_system_user", "text_4097")
IMAGE_CASES = (
    "image_wide",
    "image_tall",
    "image_square",
    "image_strip",
    "image_two_turn",
    "image_in_second_turn",
    "two_images",
)
# Greedy runs.
RUNS = ("text_user", "image_square", "cross_4096")
# Pictures in several sizes and modes, by the names of their files.
PICTURES = (
    "exact_1344x1008",
    "gray_320x240",
    "palette_256x256",
    "small_37x23",
    "square_500x500",
    "strip_2000x90",
    "tall_600x1500",
    "wide_1900x1069",
)


class Golden:
    """The golden directory, read on demand and at most once."""

    def __init__(self, directory: Path, vision: VisionConfig) -> None:
        self.directory = directory
        self.vision = vision
        self.json = cache(self._json)
        self.arrays = cache(self._arrays)
        self.image = cache(self._image)
        self.picture = cache(self._picture)

    def images_of(self, case: str) -> list[str]:
        return self.json("cases")["cases"][case]["images"]

    def sequence(self, case: str) -> Sequence:
        """A forward case's prompt, as the published processor gave it."""
        token_ids = self.arrays(case)["input_ids"].tolist()
        return self._sequence(case, token_ids, self.images_of(case), max_tokens=1)

    def run(self, name: str, sequence_id: str | None = None) -> tuple[Sequence, list[int]]:
        """A greedy run: its prompt, and the tokens that must follow."""
        run = self.json("cases")["generate"][name]
        expected = run.get("ideal_new_ids", run["new_ids"])
        token_ids = self.arrays(f"gen_{name}")["input_ids"].tolist()
        sequence_id = sequence_id or name
        return self._sequence(sequence_id, token_ids, run["images"], len(expected)), expected

    def _sequence(
        self, sequence_id: str, token_ids: list[int], images: list[str], max_tokens: int
    ) -> Sequence:
        spans = (
            ImageSpan(self.picture(image), token_ids.index(-number))
            for number, image in enumerate(images, start=1)
        )
        return Sequence(sequence_id, token_ids, SamplingParams(max_tokens), tuple(spans))

    def _json(self, name: str) -> Any:
        return json.loads((self.directory / f"{name}.json").read_text(encoding="utf-8"))

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.directory / f"{name}.npz") as arrays:
            return dict(arrays)

    def _image(self, name: str) -> Image.Image:
        """The picture as the published processor sees it."""
        with Image.open(self.directory / "images" / f"{name}.png") as image:
            return image.convert("RGB")

    def _picture(self, name: str) -> HDPicture:
        return to_hd_picture(self.image(name), self.vision)
