"""Pictures off the wire: every usual file becomes what a person sees, and no file does harm."""

import base64
import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image, ImageOps

from server.errors import APIError, InvalidRequestError
from server.images import load_image

from .error_bodies import assert_error
from .pictures import colourful, data_url, encoded, image_part, noise, plain_png
from .running_server import RunningServer, assert_well, counts

MAX_PIXELS = 40_000_000
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
LOC = ("body", "messages", "0", "content", "1", "image_url", "url")


def load(data: bytes, mime: str = "image/png", max_pixels: int = MAX_PIXELS) -> Image.Image:
    image = load_image(data_url(data, mime), max_pixels, LOC)
    assert image.mode == "RGB"
    return image


def pixels(image: Image.Image) -> npt.NDArray[np.int16]:
    return np.asarray(image.convert("RGB")).astype(np.int16)


def assert_alike(image: Image.Image, expected: Image.Image, tolerance: float) -> None:
    """No pixel differs by more than the tolerance on average, which is what lossy formats do."""
    assert image.size == expected.size
    assert np.abs(pixels(image) - pixels(expected)).mean() <= tolerance


def refusal(url: str, max_pixels: int = MAX_PIXELS) -> APIError:
    """The error that the URL raises."""
    with pytest.raises(APIError) as refused:
        load_image(url, max_pixels, LOC)
    error = refused.value
    assert error.status == 422
    assert error.problem.loc == LOC
    assert error.problem.value is None  # a picture is never repeated
    assert " at 0x" not in str(error)
    return error


# Formats


@pytest.mark.parametrize(
    ("file_format", "mime", "tolerance"),
    [
        ("PNG", "image/png", 0),
        ("BMP", "image/bmp", 0),
        ("JPEG", "image/jpeg", 4),
        ("JPEG", "image/jpg", 4),  # not a registered type, but what the documentation sends
        ("WEBP", "image/webp", 4),
        ("GIF", "image/gif", 12),
    ],
)
def test_the_usual_formats_are_read(file_format: str, mime: str, tolerance: float) -> None:
    picture = colourful()
    assert_alike(load(encoded(picture, file_format), mime), picture, tolerance)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 90}])
def test_both_kinds_of_webp_are_read(options: dict[str, Any]) -> None:
    assert_alike(load(encoded(colourful(), "WEBP", **options)), colourful(), 3)


def test_a_progressive_jpeg_is_read() -> None:
    data = encoded(colourful(), "JPEG", progressive=True, quality=95)
    assert_alike(load(data), colourful(), 3)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("mime", ["image/jpeg", "image/png", "image/x-unheard-of", "image/svg+xml"])
def test_the_bytes_decide_whatever_the_declared_type(file_format: str, mime: str) -> None:
    assert load(encoded(colourful(), file_format), mime).size == colourful().size


@pytest.mark.parametrize("file_format", ["TIFF", "ICO", "EPS", "PDF", "PPM", "TGA", "ICNS", "DDS"])
def test_other_formats_are_refused_though_pillow_reads_them(file_format: str) -> None:
    picture = Image.new("RGB", (32, 32), RED)
    error = refusal(data_url(encoded(picture, file_format)))
    assert "JPEG, PNG, WEBP, GIF, BMP" in str(error)


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
        b"<html><body>hello</body></html>",
        b"MZ\x90\x00" + bytes(100),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        b"SIMPLE  =                    T" + b" " * 50,
        b"\x00\x00\x00\x18ftypheic" + bytes(100),
        bytes(range(256)),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"BM",
        b"RIFF\x10\x00\x00\x00WEBP",
        b"x",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert isinstance(refusal(data_url(data)), InvalidRequestError)


# Orientation


def stored_as(orientation: int, upright: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The pixels as the file holds them, by where the EXIF standard says that its first row and
    first column lie in the upright picture."""
    turned = upright.transpose(1, 0, 2)
    return {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: turned,  # left, top
        6: turned[::-1],  # right, top
        7: turned[::-1, ::-1],  # right, bottom
        8: turned[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [("JPEG", {"quality": 98}, 3), ("PNG", {}, 0), ("WEBP", {"lossless": True}, 0)],
)
def test_a_turned_picture_is_seen_upright(
    orientation: int, file_format: str, options: dict[str, Any], tolerance: float
) -> None:
    upright = colourful(48, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(stored_as(orientation, np.asarray(upright))))
    data = encoded(stored, file_format, exif=exif, **options)
    assert_alike(load(data), upright, tolerance)


def jpeg_with_app1(payload: bytes) -> bytes:
    """A JPEG whose EXIF segment is these bytes."""
    data = encoded(colourful(), "JPEG", quality=98)
    segment = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    return data[:2] + segment + data[2:]


@pytest.mark.parametrize(
    "payload",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage that is no TIFF header",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(40),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",  # 99
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\0\0\xff\xff\xff\x7f\0\0\0\0",
        b"Exif\0\0" + bytes(60_000),
        b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='6'",
    ],
    ids=lambda payload: repr(payload[6:20]),
)
@pytest.mark.filterwarnings("ignore:.*EXIF", "ignore:Tag data larger", "ignore:Possibly")
def test_an_unreadable_orientation_is_no_reason_to_refuse(payload: bytes) -> None:
    """Pillow warns of some of them, which is an error in tests only."""
    assert_alike(load(jpeg_with_app1(payload)), colourful(), 3)


def test_a_broken_colour_profile_is_no_reason_to_refuse() -> None:
    for file_format in ("JPEG", "PNG", "WEBP"):
        load(encoded(colourful(), file_format, icc_profile=b"not a profile" * 20))


# Colours and transparency


def test_transparent_pixels_are_white_and_half_transparent_ones_half_so() -> None:
    picture = Image.new("RGBA", (3, 1))
    picture.putdata([(*RED, 255), (*RED, 0), (0, 0, 0, 128)])
    for file_format in ("PNG", "WEBP"):
        options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
        seen = load(encoded(picture, file_format, **options))
        assert [seen.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, (127, 127, 127)]


def test_grey_with_transparency_is_on_white() -> None:
    picture = Image.new("LA", (3, 1))
    picture.putdata([(80, 255), (80, 0), (0, 128)])
    seen = load(encoded(picture, "PNG"))
    assert [seen.getpixel((x, 0)) for x in range(3)] == [(80,) * 3, WHITE, (127,) * 3]


def palette_picture(mode_options: dict[str, Any]) -> bytes:
    picture = Image.new("P", (3, 1))
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.putdata([0, 1, 2])
    return encoded(picture, **mode_options)


def test_a_palette_is_resolved() -> None:
    for file_format in ("PNG", "GIF", "BMP"):
        seen = load(palette_picture({"file_format": file_format}))
        assert [seen.getpixel((x, 0)) for x in range(3)] == [RED, GREEN, BLUE]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"file_format": "PNG", "transparency": 1}, [RED, WHITE, BLUE]),
        ({"file_format": "GIF", "transparency": 1}, [RED, WHITE, BLUE]),
        (
            {"file_format": "PNG", "transparency": bytes([255, 0, 128])},
            [RED, WHITE, (127, 127, 255)],
        ),
    ],
    ids=["PNG-index", "GIF-index", "PNG-alphas"],
)
def test_a_transparent_palette_entry_is_white(
    options: dict[str, Any], expected: list[tuple[int, ...]]
) -> None:
    seen = load(palette_picture(options))
    assert [seen.getpixel((x, 0)) for x in range(3)] == expected


def test_a_colour_named_transparent_is_white() -> None:
    """A PNG without an alpha channel can name one colour, or one grey, as transparent."""
    picture = Image.new("RGB", (2, 1))
    picture.putdata([RED, BLUE])
    seen = load(encoded(picture, "PNG", transparency=BLUE))
    assert [seen.getpixel((x, 0)) for x in range(2)] == [RED, WHITE]
    grey = Image.new("L", (2, 1))
    grey.putdata([10, 20])
    seen = load(encoded(grey, "PNG", transparency=20))
    assert [seen.getpixel((x, 0)) for x in range(2)] == [(10,) * 3, WHITE]


def test_sixteen_bits_of_grey_are_scaled_to_eight() -> None:
    """Pillow's own conversion clips: everything above 255 of 65535 would be white."""
    values = np.array([[0, 255, 257, 32768, 40000, 65535]], dtype=np.uint16)
    seen = load(encoded(Image.fromarray(values), "PNG"))
    assert [seen.getpixel((x, 0)) for x in range(6)] == [
        (level,) * 3 for level in (0, 1, 1, 128, 156, 255)
    ]


def png_of(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG of these raw rows, each after its filter byte."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_sixteen_bits_a_channel_are_scaled_too() -> None:
    row = b"\0" + struct.pack(">6H", 0, 40000, 65535, 65535, 0, 257)
    seen = load(png_of(2, 1, 16, 2, row))
    expected = np.array([[0, 156, 255], [255, 0, 1]])
    assert np.abs(pixels(seen)[0] - expected).max() <= 1
    grey_and_alpha = b"\0" + struct.pack(">4H", 40000, 65535, 40000, 0)
    seen = load(png_of(2, 1, 16, 4, grey_and_alpha))
    assert np.abs(pixels(seen)[0] - np.array([[156] * 3, [255] * 3])).max() <= 1


@pytest.mark.parametrize("bit_depth", [1, 2, 4])
def test_few_bits_of_grey_span_black_to_white(bit_depth: int) -> None:
    seen = load(png_of(8 // bit_depth, 1, bit_depth, 0, b"\0" + bytes([0b10000000 | 1])))
    assert seen.getpixel((8 // bit_depth - 1, 0)) == (255 // (2**bit_depth - 1),) * 3


def test_one_bit_is_black_and_white() -> None:
    picture = Image.new("1", (2, 1))
    picture.putdata([0, 255])
    for file_format in ("PNG", "BMP"):
        seen = load(encoded(picture, file_format))
        assert [seen.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), WHITE]


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE, WHITE, (0, 0, 0), (90, 140, 200)])
def test_cmyk_is_seen_in_its_colours(colour: tuple[int, int, int]) -> None:
    """Adobe's way stores the inks inverted, and that is how Pillow writes them."""
    picture = Image.new("RGB", (16, 16), colour).convert("CMYK")
    seen = load(encoded(picture, "JPEG", quality=98))
    assert np.abs(pixels(seen) - np.array(colour)).mean() < 4


def test_grey_jpeg_is_grey() -> None:
    seen = load(encoded(Image.new("L", (16, 16), 77), "JPEG"))
    assert np.abs(pixels(seen) - 77).max() <= 1


# Several frames


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_of_several_frames_the_first_is_seen(file_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], duration=50)
    assert_alike(load(data), frames[0], 3)


def test_hundreds_of_frames_cost_no_more_than_one() -> None:
    frames = [Image.new("L", (400, 400), level) for level in range(250)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=20)
    start = time.monotonic()
    load(data)
    assert time.monotonic() - start < 1


# Broken and hostile files


def is_complete_enough(data: bytes) -> bool:
    try:
        load(data)
    except InvalidRequestError:
        return False
    return True


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 90}),
        ("JPEG", {"progressive": True, "quality": 90}),
        ("WEBP", {"quality": 90}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
    ],
    ids=str,
)
def test_a_truncated_file_is_refused_never_half_seen(
    file_format: str, options: dict[str, Any]
) -> None:
    data = encoded(noise(64, 48), file_format, **options)
    cuts = [0, 1, 7, 20, *(len(data) * tenth // 10 for tenth in range(1, 10))]
    assert [cut for cut in cuts if is_complete_enough(data[:cut])] == []
    for cut in cuts:
        assert isinstance(refusal(data_url(data[:cut])), InvalidRequestError)


def test_a_file_with_a_flipped_byte_is_read_or_refused_but_nothing_else() -> None:
    rng = np.random.default_rng(5)
    for file_format in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        data = encoded(noise(24, 16), file_format)
        for _ in range(60):
            broken = bytearray(data)
            for _ in range(int(rng.integers(1, 4))):
                broken[int(rng.integers(len(broken)))] = int(rng.integers(256))
            is_complete_enough(bytes(broken))


def huge_header(width: int, height: int) -> bytes:
    """A PNG that claims to be this large and holds nothing."""
    return png_of(width, height, 8, 2, b"")


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: huge_header(60_000, 60_000), (60_000, 60_000)),
        (lambda: huge_header(2**31 - 1, 2**31 - 1), None),
        (lambda: huge_header(8000, 5001), (8000, 5001)),
        (lambda: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + bytes(30), None),
        (lambda: _bmp_header(50_000, 50_000), None),
        (lambda: _white_png(12_000, 12_000), (12_000, 12_000)),
    ],
    ids=["60000", "2^31", "just over", "gif", "bmp", "white"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as in production
def test_a_picture_too_large_is_refused_by_its_header(
    make: Callable[[], bytes], size: tuple[int, int] | None
) -> None:
    """Decoding the last one would take over a gigabyte for its 446 kB."""
    url = data_url(make())
    process, start = psutil.Process(), time.monotonic()
    before = process.memory_info().rss
    error = refusal(url)
    assert time.monotonic() - start < 1
    assert process.memory_info().rss - before < 20 << 20
    assert "megapixels" in str(error) or size is None
    if size is not None and size[0] < 20_000:
        assert str(size[0]) in str(error)
        assert str(size[1]) in str(error)


def _bmp_header(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def _white_png(width: int, height: int) -> bytes:
    row = b"\0" + b"\xff" * (width // 8)
    return png_of(width, height, 1, 0, row * height)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_refused(width: int, height: int) -> None:
    refusal(data_url(huge_header(width, height)))
    refusal(data_url(b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"\x3b"))
    refusal(data_url(_bmp_header(width, height)))


def test_the_limit_is_the_number_of_pixels() -> None:
    assert load(plain_png(10, 10), max_pixels=100).size == (10, 10)
    assert load(plain_png(100, 1), max_pixels=100).size == (100, 1)
    error = refusal(data_url(plain_png(101, 1)), max_pixels=100)
    assert "101 x 1" in str(error)


def test_a_bomb_in_a_text_chunk_does_not_go_off() -> None:
    bomb = b"Comment\0\0" + zlib.compress(bytes(64 << 20), 9)
    good = plain_png(8, 8)
    data = good[:33] + chunk(b"zTXt", bomb) + good[33:]
    process = psutil.Process()
    before, start = process.memory_info().rss, time.monotonic()
    is_complete_enough(data)
    assert time.monotonic() - start < 2
    assert process.memory_info().rss - before < 32 << 20


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (2, 2), (16_384, 2)])
def test_any_shape_is_a_picture(size: tuple[int, int]) -> None:
    assert load(plain_png(*size)).size == size


def test_a_picture_is_only_transposed_where_it_says_so() -> None:
    assert ImageOps.exif_transpose(colourful()).size == load(encoded(colourful(), "PNG")).size


# Data URLs

PNG = encoded(noise(9, 7, seed=3), "PNG")
ENCODED = base64.b64encode(PNG).decode()
URL_SAFE = base64.urlsafe_b64encode(PNG).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{ENCODED}",
        f"data:image/png;base64,{URL_SAFE}",
        f"data:image/png;base64,{ENCODED.rstrip('=')}",
        f"DATA:IMAGE/PNG;BASE64,{ENCODED}",
        "data:image/png;base64," + "\n".join(ENCODED[i : i + 76] for i in range(0, 999, 76)),
        "data:image/png;base64," + "\r\n".join(ENCODED[i : i + 64] for i in range(0, 999, 64)),
        f"data:image/png;base64, {ENCODED} ",
        f"data:image/vnd.microsoft-x+y;base64,{ENCODED}",
    ],
    ids=["plain", "urlsafe", "unpadded", "capitals", "lines", "crlf", "spaces", "odd-type"],
)
def test_base64_may_be_written_in_several_ways(url: str) -> None:
    assert set("+/") & set(ENCODED)  # so that the two alphabets differ
    assert_alike(load_image(url, MAX_PIXELS, LOC), Image.open(io.BytesIO(PNG)), 0)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        ENCODED,
        "data:",
        "data:,",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,====",
        "data:image/png;base64,A",
        "data:image/png;base64,A===",
        f"data:image/png,{ENCODED}",
        f"data:;base64,{ENCODED}",
        f"data:text/html;base64,{ENCODED}",
        f"data:video/jpeg;base64,{ENCODED}",
        f"data:application/octet-stream;base64,{ENCODED}",
        f"data:image/png;base64,{ENCODED},{ENCODED}",
        f"data:image/png;base64,,{ENCODED}",
        f"data:image/png;base64,{ENCODED[:40]}!{ENCODED[40:]}",
        f"data:image/png;base64,{ENCODED[:40]}={ENCODED[40:]}",
        f"data:image/png;base64,{ENCODED[:40]}é{ENCODED[40:]}",
        f"data:image/png;base64,{ENCODED[:40]}\0{ENCODED[40:]}",
        f"data:image/png;base64,{ENCODED}#fragment",
        f" data:image/png;base64,{ENCODED}",
        "data:image/jpg;base64,0xABCDFGHIJKLMNOPQRSTUVWXYZ...",
        "file:///etc/passwd",
        "ftp://example.com/x.png",
        "//example.com/x.png",
        "javascript:alert(1)",
    ],
    ids=lambda url: repr(url[:36]),
)
def test_a_url_that_holds_no_picture_is_refused(url: str) -> None:
    assert isinstance(refusal(url), InvalidRequestError)


def test_a_long_url_is_refused_in_linear_time() -> None:
    start = time.monotonic()
    for url in ("data:image/" + "a" * 4_000_000, "data:image/png;base64," + "=" * 4_000_000):
        refusal(url)
    assert time.monotonic() - start < 3


# Over HTTP


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(plain_png(1, 1), id="1x1"),
        pytest.param(plain_png(1, 20_000), id="1x20000"),
        pytest.param(plain_png(20_000, 1), id="20000x1"),
        pytest.param(plain_png(111, 112), id="111x112"),
        pytest.param(plain_png(113, 112), id="113x112"),
        pytest.param(jpeg_with_app1(b"Exif\0\0garbage"), id="broken EXIF"),
        pytest.param(encoded(colourful().convert("CMYK"), "JPEG"), id="CMYK"),
        pytest.param(encoded(colourful(), "GIF"), id="GIF"),
    ],
)
def test_a_readable_picture_is_answered(demo: RunningServer, data: bytes) -> None:
    response = demo.ask([{"type": "text", "text": "What is it?"}, image_part(data)], max_tokens=4)
    assert response.status_code == 200, response.text
    assert_well(demo)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(noise(64, 48), "PNG")[:2000], id="truncated PNG"),
        pytest.param(encoded(noise(64, 48), "JPEG")[:2000], id="truncated JPEG"),
        pytest.param(encoded(colourful(), "TIFF"), id="TIFF"),
        pytest.param(b"%PDF-1.4", id="PDF"),
        pytest.param(huge_header(60_000, 60_000), id="60000"),
        pytest.param(b"", id="empty"),
    ],
)
def test_an_unreadable_picture_is_a_422_that_says_where(demo: RunningServer, data: bytes) -> None:
    response = demo.ask([{"type": "text", "text": "What is it?"}, image_part(data)])
    place = "messages.0.content.1.image_url.url"
    assert_error(response, 422, "invalid_parameter", place)
    assert data_url(data)[30:80] not in response.text or not data
    assert_well(demo)


def test_a_picture_too_large_costs_the_server_nothing(demo: RunningServer) -> None:
    part = image_part(_white_png(12_000, 12_000))
    memory, start = demo.resources.memory_info().rss, time.monotonic()
    for _ in range(3):
        assert_error(demo.ask([part]), 422, "invalid_parameter")
    assert time.monotonic() - start < 3
    assert demo.resources.memory_info().rss - memory < 30 << 20
    assert_well(demo)


def test_a_turned_picture_and_the_upright_one_get_the_same_answer(tiny: RunningServer) -> None:
    upright = colourful(90, 50)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(stored_as(6, np.asarray(upright))))
    first, second, turned = (
        tiny.ask([image_part(data)], max_tokens=16).json()
        for data in (
            encoded(upright, "PNG"),
            encoded(stored, "PNG", exif=exif),
            encoded(stored, "PNG"),
        )
    )
    assert (first["choices"], counts(first)) == (second["choices"], counts(second))
    assert turned["choices"] != first["choices"]
    assert_well(tiny)


def test_the_same_bytes_in_another_shape_are_another_picture(tiny: RunningServer) -> None:
    """Hashed without its shape, one would be answered with the other's features."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    one = image_part(encoded(Image.fromarray(pixels), "PNG"))
    other = image_part(encoded(Image.fromarray(pixels.reshape(40, 60, 3)), "PNG"))
    first, second, again = (
        tiny.fingerprint({"role": "user", "content": [part]}) for part in (one, other, one)
    )
    assert first == again != second
    assert_well(tiny)


def test_many_large_pictures_at_once_are_decoded_a_few_at_a_time(demo: RunningServer) -> None:
    """Each request has three pictures just under the limit, of which the model keeps one."""
    part = image_part(_white_png(6304, 6304))
    memory = demo.resources.memory_info().rss
    peak = memory
    messages = [{"role": "user", "content": [part]}] * 3
    body = {"messages": messages, "max_tokens": 1}
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(demo.post, body) for _ in range(6)]
        while not all(one.done() for one in asked):
            assert demo.get("/health/live").status_code == 200
            peak = max(peak, demo.resources.memory_info().rss)
        assert [one.result().status_code for one in asked] == [200] * 6
    # A picture takes 120 MB, and as much again for a moment.
    assert peak - memory < (min(6, os.cpu_count() or 1) * 3 + 1) * (120 << 20)
    assert_well(demo)
