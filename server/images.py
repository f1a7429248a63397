"""Files, and data: URLs that hold files → plain RGB pictures, with every limit applied before
memory is spent."""

import binascii
import io
import re

import numpy as np
from PIL import Image, ImageOps

from .errors import InvalidRequestError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/", " \t\r\n")
_PORTION = 1 << 18
_Loc = tuple[str, ...]


def load_image(url: str, max_pixels: int, loc: _Loc, fetched: bytes | None = None) -> Image.Image:
    """Decode the picture of a data URL to RGB: upright, on white, eight bits deep, first frame.

    The declared type is not trusted; the bytes decide. fetched: the file at a URL of another kind.
    loc: where the URL stands, for the error.
    Raises InvalidRequestError or NotSupportedError; no message repeats what was sent.
    """
    file = _decode(url, loc) if fetched is None else io.BytesIO(fetched)
    return to_plain_rgb(_open(file, max_pixels, loc), loc)


def begins_like_a_picture(file: bytes | bytearray) -> bool:
    """Whether the first bytes are those of one of FORMATS."""
    return file.startswith(_SIGNATURES) or (file.startswith(b"RIFF") and file[8:12] == b"WEBP")


def _decode(url: str, loc: _Loc) -> io.BytesIO:
    header = _DATA_URL.match(url)
    if header is None:
        raise InvalidRequestError(
            "an image must be a 'data:image/…;base64,…' URL, or one with https://", loc
        )
    try:
        return _decode_base64(url, header.end())
    except (binascii.Error, ValueError):
        raise InvalidRequestError("the image's base64 is not valid", loc) from None


def _decode_base64(text: str, start: int) -> io.BytesIO:
    """In portions, and without a copy of the whole: a worker thread in one long call would hold up
    the event loop, too."""
    tail = text[-_PORTION:]
    end = len(text) - len(tail) + len(tail.rstrip("= \t\r\n"))
    data, rest = io.BytesIO(), ""
    for at in range(start, end, _PORTION):
        portion = rest + text[at : min(at + _PORTION, end)].translate(_URL_SAFE)
        if "=" in portion:
            raise ValueError("padding before the end")
        whole = len(portion) // 4 * 4
        data.write(binascii.a2b_base64(portion[:whole], strict_mode=True))
        rest = portion[whole:]
    data.write(binascii.a2b_base64(rest + "=" * (-len(rest) % 4), strict_mode=True))
    data.seek(0)
    return data


def _open(data: io.BytesIO, max_pixels: int, loc: _Loc) -> Image.Image:
    """Read the header only, and check the size it states."""
    try:
        image = Image.open(data, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidRequestError(
            f"the image has more than the {max_pixels / 1e6:g} megapixels allowed", loc
        ) from None
    except Exception:  # each of Pillow's readers raises its own kinds for broken headers
        raise InvalidRequestError(
            f"the image cannot be read; it must be one of {', '.join(FORMATS)}", loc
        ) from None
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise InvalidRequestError(
            f"the image has {image.width} x {image.height} pixels, "
            f"{pixels / 1e6:.1f} megapixels; {max_pixels / 1e6:g} are allowed",
            loc,
        )
    return image


def to_plain_rgb(image: Image.Image, loc: _Loc = ()) -> Image.Image:
    """Any picture → RGB as a person sees it.

    Better than the published `convert('RGB')`, which ignores the EXIF orientation, turns
    transparent pixels into whatever lies beneath, and clips 16-bit grey at 255.
    """
    try:
        image.load()
        image = _upright(image)
        if image.mode.startswith("I"):
            grey = np.asarray(image).astype(np.float32).clip(0, 65535) / 257
            return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            image = image.convert("RGBA")
            white = Image.new("RGB", image.size, (255, 255, 255))
            # Not alpha_composite, which holds up all other threads.
            white.paste(image, mask=image)
            return white
        return image.convert("RGB")
    except Exception:  # as in _open: a broken file can raise anything
        raise InvalidRequestError("the image's data is broken or incomplete", loc) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF is no reason to refuse a picture
        return image
