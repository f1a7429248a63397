"""Paths in a batch's lines that lead to no picture, on one machine and in a cluster's source."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.batch.local_pictures import with_local_pictures, with_pictures
from server.client.errors import PictureFileError

Read = Callable[[dict[str, Any], Path], dict[str, Any]]


def in_cluster(body: dict[str, Any], folder: Path) -> dict[str, Any]:
    pytest.importorskip("ray")
    from server.ray.batch.source import Source

    source = Source(str(folder))
    return with_pictures(body, lambda path: source.picture_url(f"{folder}/in.jsonl", path))


@pytest.fixture(params=[with_local_pictures, in_cluster], ids=["alone", "in a cluster"])
def read(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize(
    "url",
    [
        "file://[abc/x.png",
        "file://[::1/x.png",
        "file://a]b/x.png",
        "file://[v1.x]/x.png",
        "file://\u2100/x.png",  # NFKC makes a/c of it
        "file://elsewhere/x.png",
        "file:///a%00b.png",
        "a\0b.png",
        "\ud800.png",
        "x" * 300,
        "a/" * 3000,
        "file:///" + "x" * 300,
        "~nobody/x.png",
        "in.jsonl/x.png",
        "secret.png",
        ".",
    ],
)
def test_a_path_that_cannot_be_read_fails_its_line_alone(
    url: str, read: Read, tmp_path: Path
) -> None:
    """`urlsplit` raised a ValueError, which ended the whole batch, at every run of it."""
    (tmp_path / "in.jsonl").touch()
    (tmp_path / "secret.png").touch(mode=0)
    image = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(PictureFileError):
        read({"messages": [{"role": "user", "content": [image]}]}, tmp_path)
