"""The HD transform: any RGB picture → a padded picture whose sides are multiples of a crop.

Pillow and numpy only. Scaling values, the global view and cropping happen on the engine's device
(models/phi3_vision.py). Source: `HD_transform` in the checkpoint's image_processing_phi3_v.py.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from model_config import VisionConfig


@dataclass(frozen=True)
class HDPicture:
    """A picture ready for the engine.

    pixels: uint8 (rows * crop_size, cols * crop_size, 3), C-contiguous. digest: sha256 over the
    pixels, their shape and num_crops, and over whose it is where callers are kept apart; the only
    key under which features are cached.
    num_tokens: the slots it takes in a prompt.
    """

    pixels: npt.NDArray[np.uint8]
    digest: bytes
    num_tokens: int


def hd_size(width: int, height: int, vision: VisionConfig) -> tuple[int, int]:
    """The size a landscape picture (width ≥ height ≥ 1) is scaled to before padding, in pixels.

    The width is the largest multiple s of a crop for which s * ceil(s / ratio) crops are allowed;
    the height keeps the ratio, truncated, but never to zero (where the published code fails).
    """
    ratio = width / height
    scale = 1
    while (scale + 1) * math.ceil((scale + 1) / ratio) <= vision.num_crops:
        scale += 1
    new_width = scale * vision.crop_size
    return new_width, max(1, int(new_width / ratio))


def num_image_tokens(rows: int, cols: int, vision: VisionConfig) -> int:
    """Slots of a picture of rows × cols crops: the crops and the global view, a separator at the
    end of each of their rows of tokens, and one between the two."""
    side = vision.tokens_per_side
    return (rows * cols + 1) * side * side + (rows + 1) * side + 1


def to_hd_picture(image: Image.Image, vision: VisionConfig) -> HDPicture:
    """Scale and pad an RGB picture of any size.

    Tall pictures are turned on their side first and back afterwards, so their padding is at the
    left and right. Padding is white; its odd pixel goes to the bottom (or right).
    """
    tall = image.width < image.height
    if tall:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    width, height = hd_size(image.width, image.height, vision)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    padded_height = math.ceil(height / vision.crop_size) * vision.crop_size
    padded = Image.new("RGB", (width, padded_height), (255, 255, 255))
    padded.paste(resized, (0, (padded_height - height) // 2))
    if tall:
        padded = padded.transpose(Image.Transpose.TRANSPOSE)
    pixels = np.asarray(padded)
    rows, cols = (side // vision.crop_size for side in pixels.shape[:2])
    header = f"hd-picture-1 {pixels.shape} {vision.num_crops} ".encode()
    digest = hashlib.sha256(header)
    digest.update(pixels.data)
    return HDPicture(pixels, digest.digest(), num_image_tokens(rows, cols, vision))
