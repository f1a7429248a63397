"""Settings for pictures: their size, and whether they may be named by URL."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from .names import Names

_HOST = re.compile(r"\*|(\*\.)?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]*[a-z][a-z0-9-]*")


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    hosts = tuple(host.lower() for host in hosts)
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ValueError(
                f"{host[:64]!r} is no host name; names look like 'example.com' (international ones "
                "in punycode), '*.example.com' or '*'"
            )
    return hosts


Hosts = Annotated[Names, AfterValidator(_check_hosts)]


class ImageSettings(BaseModel):
    """Pictures."""

    allow_image_urls: Hosts = Field(
        (),
        description="Fetch images from https URLs on these hosts, separated by commas: "
        "'example.com', '*.example.com' for its subdomains, '*' for any public host. Unset: "
        "images come as data URLs only.",
    )
    image_url_timeout_s: float = Field(
        5, gt=0, le=60, description="Seconds that fetching one image may take, redirects included."
    )
    max_image_fetches: int = Field(
        8, ge=1, le=64, description="Images that are fetched at once; others wait as long at most."
    )
    max_images: int = Field(
        16, ge=0, description="Images of a request, those that are not kept included."
    )
    max_image_mib: int = Field(
        20, ge=1, description="Size of an image's file; a larger one is answered 413."
    )
    max_image_megapixels: float = Field(
        40, gt=0, description="Size of a picture, read from its header before it is decoded."
    )
