"""Prompts for the checks: random ids, and pictures of noise."""

from dataclasses import replace

import numpy as np
from PIL import Image

from model_config import VisionConfig
from scoring.image_processor import HDPicture, to_hd_picture
from scoring.sequence import ImageSpan, Sequence

from ..systems import to_sequence
from ..workload import random_tokens

_SIDE = 336  # pixels of the noise, before it is scaled
_BEFORE, _AFTER = 5, 9  # tokens around a picture


def noise(vision: VisionConfig, seed: int, max_crops: int) -> HDPicture:
    """A square picture: the most crops of 1, 4, 9, 16 that are allowed, and the global view."""
    pixels = np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    return to_hd_picture(Image.fromarray(pixels), replace(vision, num_crops=max_crops))


def text_sequence(seed: int, num_tokens: int, num_output: int) -> Sequence:
    return to_sequence(random_tokens(np.random.default_rng(seed), num_tokens), num_output)


def picture_sequence(picture: HDPicture, seed: int, num_output: int) -> Sequence:
    """The picture between a few random tokens."""
    random = np.random.default_rng(seed)
    before, after = random_tokens(random, _BEFORE), random_tokens(random, _AFTER)
    prompt = [*before, *[-1] * picture.num_tokens, *after]
    return to_sequence(prompt, num_output, (ImageSpan(picture, _BEFORE),))
