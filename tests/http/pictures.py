"""Pictures as callers send them."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image


def data_url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes, mime: str = "image/png") -> dict[str, Any]:
    """A content part with a picture."""
    return {"type": "image_url", "image_url": {"url": data_url(data, mime)}}


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def plain_png(width: int, height: int) -> bytes:
    return encoded(Image.new("RGB", (width, height), (40, 90, 200)), "PNG")


def colourful(width: int = 48, height: int = 32) -> Image.Image:
    """Red grows to the right, green downwards, blue over both: no side looks like another."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([x, y, (x + y) / 2], axis=-1)
    return Image.fromarray(pixels.round().astype(np.uint8))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture that no format can make small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def about(picture: str, question: str) -> dict[str, Any]:
    """A user's turn: a question about one picture of noise for each name."""
    pixels = noise(60, 40, seed=int.from_bytes(picture.encode(), "little"))
    content = [{"type": "text", "text": question}, image_part(encoded(pixels, "PNG"))]
    return {"role": "user", "content": content}
