"""Pictures → pixel values, against what the published image processor gave."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from scoring.image_processor import hd_size, num_image_tokens, to_hd_picture
from scoring.models.phi3_vision import to_crops

from .golden import PICTURES


def test_900_sizes_are_padded_and_counted_as_published(golden, config):
    rows = golden.json("hd_sizes")["rows"]
    assert len(rows) == 900
    # Where a side would be scaled to nothing the published code fails; ours is asked below.
    possible = [row for row in rows if row[3] and row[4]]
    assert len(possible) == 899
    for num_crops, width, height, padded_width, padded_height, num_tokens in possible:
        vision = replace(config.vision, num_crops=num_crops)
        # Tall pictures are measured lying on their side.
        new_width, new_height = hd_size(max(width, height), min(width, height), vision)
        num_long, num_short = math.ceil(new_width / 336), math.ceil(new_height / 336)
        num_cols, num_rows = (num_short, num_long) if width < height else (num_long, num_short)

        assert (num_cols * 336, num_rows * 336) == (padded_width, padded_height), (width, height)
        assert num_image_tokens(num_rows, num_cols, vision) == num_tokens, (width, height)


@pytest.mark.parametrize("name", PICTURES)
def test_the_hd_picture_is_the_published_one(golden, name):
    picture, published = golden.picture(name), golden.json("preproc")["images"][name]

    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.c_contiguous
    assert list(picture.pixels.shape[:2]) == published["image_size_hw"]
    assert hashlib.sha256(picture.pixels.tobytes()).hexdigest() == published["hd_rgb_sha256"]
    assert picture.num_tokens == published["num_img_tokens"]


@pytest.mark.parametrize("name", PICTURES)
def test_pixel_values_are_the_published_ones_bit_for_bit(golden, config, name):
    published, arrays = golden.json("preproc")["images"][name], golden.arrays(f"preproc_{name}")
    crops = to_crops(torch.tensor(golden.picture(name).pixels), config.vision).numpy()
    pixel_values = np.zeros((config.vision.num_crops + 1, 3, 336, 336), dtype=np.float32)
    pixel_values[: len(crops)] = crops

    assert list(pixel_values.shape) == published["pixel_values_shape"]
    np.testing.assert_array_equal(pixel_values[0], arrays["global_image"])
    np.testing.assert_array_equal(pixel_values[:, :, 5::24, 7::24], arrays["strided"])
    digest = hashlib.sha256(pixel_values.tobytes()).hexdigest()
    assert digest == published["pixel_values_sha256"]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture that no transformation leaves as it is."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(600, 250), (1900, 1069), (37, 23)])
def test_a_tall_picture_is_a_wide_one_turned_over(config, size):
    wide = noise(*size)
    tall = wide.transpose(Image.Transpose.TRANSPOSE)

    lying, standing = to_hd_picture(wide, config.vision), to_hd_picture(tall, config.vision)

    np.testing.assert_array_equal(standing.pixels, lying.pixels.transpose(1, 0, 2))


@pytest.mark.parametrize("turned", [False, True])
def test_the_odd_pixel_of_the_padding_is_last(config, turned):
    picture = Image.new("RGB", (1900, 1069))  # black; scaled to 1680 × 945, so 63 rows are padding
    if turned:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)

    pixels = to_hd_picture(picture, config.vision).pixels
    column = pixels[:, 0] if not turned else pixels[0]

    is_padding = (column == 255).all(axis=1)
    assert is_padding[:31].all()
    assert not is_padding[31:976].any()
    assert is_padding[976:].all()
    assert len(column) == 1008


@pytest.mark.parametrize("size", [(1, 1), (20000, 3), (3, 20000), (5377, 1), (1, 5377), (1, 2)])
def test_a_picture_of_any_shape_fits_its_slots(config, size):
    """The published code fails where the height would be scaled to nothing, beyond 5376 : 1."""
    picture = to_hd_picture(noise(*size), config.vision)

    rows, cols = picture.pixels.shape[0] // 336, picture.pixels.shape[1] // 336
    assert picture.pixels.shape == (rows * 336, cols * 336, 3)
    assert 1 <= rows * cols <= 16
    assert picture.num_tokens == num_image_tokens(rows, cols, config.vision)


def test_equal_pictures_have_equal_digests_and_others_have_not(config):
    pixels = noise(100, 100)
    other = pixels.copy()
    other.putpixel((50, 50), (1, 2, 3))

    digest = to_hd_picture(pixels, config.vision).digest

    assert to_hd_picture(pixels.copy(), config.vision).digest == digest
    assert to_hd_picture(other, config.vision).digest != digest


@pytest.mark.parametrize("num_crops", [1, 17])
def test_another_number_of_crops_is_another_digest(config, num_crops):
    """Even where the HD picture comes out the same, as a square of 16 crops does with 17."""
    vision = replace(config.vision, num_crops=num_crops)
    ours, theirs = to_hd_picture(noise(99, 99), config.vision), to_hd_picture(noise(99, 99), vision)

    assert (ours.pixels.shape == theirs.pixels.shape) is (num_crops == 17)
    assert ours.digest != theirs.digest


def test_the_same_pixels_in_another_shape_have_another_digest(config):
    white = Image.new("RGB", (1344, 336), "white"), Image.new("RGB", (336, 1344), "white")
    wide, tall = (to_hd_picture(picture, config.vision) for picture in white)

    assert wide.pixels.tobytes() == tall.pixels.tobytes()
    assert wide.digest != tall.digest


def test_the_number_of_features_is_the_number_of_slots(config, model):
    """For every grid of crops that can occur."""
    grids = [(rows, cols) for rows in range(1, 5) for cols in range(rows, 17) if rows * cols <= 4]
    for rows, cols in {*grids, *((cols, rows) for rows, cols in grids)}:
        pixels = torch.full((rows * 336, cols * 336, 3), 127, dtype=torch.uint8)

        (features,) = model.encode_images([pixels])

        assert len(features) == num_image_tokens(rows, cols, config.vision)


def test_pictures_encoded_together_or_alone_have_the_same_features(golden, model):
    """Their crops go through the tower in one batch."""
    pixels = [
        torch.tensor(golden.picture(name).pixels) for name in ("small_37x23", "strip_2000x90")
    ]

    together = model.encode_images(pixels)

    for features, picture in zip(together, pixels, strict=True):
        torch.testing.assert_close(features, model.encode_images([picture])[0], rtol=0, atol=2e-5)
