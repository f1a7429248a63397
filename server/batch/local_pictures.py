"""Pictures that a batch file names by path.

The file's form stays OpenAI's: `{"type": "image_url", "image_url": {"url": "file:…"}}`, or a path
beside the batch file as the URL. Such files are read on the machine that reads the batch file, and
never by a server.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..client.errors import PictureFileError
from ..client.picture_file import to_data_url

_SENT_AS_THEY_ARE = ("data", "http", "https")
_HERE = ("", "localhost")


def with_local_pictures(body: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The body with every picture that is named by path as a data URL; folder: where paths begin.
    Raises PictureFileError."""
    return with_pictures(body, lambda path: to_data_url(folder / path))


def with_pictures(body: dict[str, Any], to_url: Callable[[str], str]) -> dict[str, Any]:
    """The body with every path of a picture as the URL that to_url makes of it. What is not as a
    body should be is left as it is, for the server to judge. Raises what to_url raises."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return body
    return {**body, "messages": [_read_message(message, to_url) for message in messages]}


def _read_message(message: Any, to_url: Callable[[str], str]) -> Any:
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    return {**message, "content": [_read_part(part, to_url) for part in message["content"]]}


def _read_part(part: Any, to_url: Callable[[str], str]) -> Any:
    image = part.get("image_url") if isinstance(part, dict) else None
    if not isinstance(image, dict) or not isinstance(image.get("url"), str):
        return part
    path = _path_of(image["url"])
    if not path:
        return part
    return {**part, "image_url": {**image, "url": to_url(path)}}


def _path_of(url: str) -> str | None:
    """The path that a URL is or names; None for a URL that is to be sent as it is."""
    scheme, colon, _ = url[:8].partition(":")
    if colon and scheme.lower() in _SENT_AS_THEY_ARE:
        return None
    if scheme.lower() != "file" or not colon:
        return url
    try:
        parts = urlsplit(url)
    except ValueError as error:  # a bracket that is not closed, say
        raise PictureFileError(f"the picture {url[:200]!r} is no URL: {error}") from error
    if parts.netloc.lower() not in _HERE:
        raise PictureFileError(f"the picture {url[:200]!r} is on another machine")
    return unquote(parts.path)
