"""A picture's file → the data URL that carries it to a server."""

import base64
import os
import re
import stat
from pathlib import Path

from .errors import PictureFileError

# The server bounds what it takes (--max-image-mib); this bounds what is read here.
MAX_MIB = 64
# How the formats begin that ..images reads; importing it would triple the start of a command.
_TYPES = {
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "gif": re.compile(rb"GIF8[79]a"),
    "bmp": re.compile(rb"BM"),
}


def to_data_url(path: Path) -> str:
    """Only files that begin like a picture are read: no path in a batch file or a typing error
    sends anything else away. Raises PictureFileError."""
    try:
        # Without waiting, where it is a pipe that nobody writes to.
        with open(path, "rb", opener=_open) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise PictureFileError(f"the picture {path} is no file")
            if found.st_size > MAX_MIB << 20:
                raise PictureFileError(f"the picture {path} has more than {MAX_MIB} MiB")
            content = file.read(MAX_MIB << 20)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise PictureFileError(f"the picture {path} cannot be read: {why}") from error
    return content_url(content, str(path))


def content_url(content: bytes, name: str) -> str:
    """name: for the message. Raises PictureFileError unless it begins like a picture."""
    kind = next((kind for kind, begins in _TYPES.items() if begins.match(content)), None)
    if kind is None:
        formats = ", ".join(_TYPES).upper()
        raise PictureFileError(f"{name} is no picture of the formats {formats}")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
