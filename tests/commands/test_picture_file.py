"""Files that commands take for pictures are those that the server reads."""

from pathlib import Path

import pytest

from server.client.errors import PictureFileError
from server.client.picture_file import to_data_url
from server.images import FORMATS

from ..http.pictures import colourful, data_url, encoded


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_of_the_server_is_sent_with_its_type(tmp_path: Path, file_format: str) -> None:
    content = encoded(colourful(), file_format)
    (tmp_path / "picture").write_bytes(content)
    assert to_data_url(tmp_path / "picture") == data_url(content, f"image/{file_format.lower()}")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"RIFF1234AVI ", b"%PDF-1.7", b"root:x:0:0"])
def test_anything_else_is_not(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(
        PictureFileError, match="no picture of the formats JPEG, PNG, WEBP, GIF, BMP"
    ):
        to_data_url(tmp_path / "file")
