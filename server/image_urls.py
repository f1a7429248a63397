"""Which image URLs are fetched, and from which addresses.

A URL is read once, here, and strictly; what is fetched is put together from the parts that were
checked. So no second reader can understand another host.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_network

import httpx

from .errors import ImageUrlNotAllowedError

_MAX_URL_LENGTH, _MAX_NAME_LENGTH = 2048, 253
# What different readers of URLs understand differently: blanks, backslashes, and all beyond ASCII
# that is not letters of a host name.
_SUSPICIOUS = re.compile(r"[\x00-\x20\x7f\\]")
# At least two labels. The last one has a letter, or the name would be a number: readers disagree
# on what 2130706433, 0x7f.1 and 0177.0.0.1 are.
_NAME = re.compile(
    r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+"
    r"(?!0x)(?=[^.]{1,63}$)[a-z0-9-]*[a-z][a-z0-9-]*"
)
# All that is given out of IPv6's public addresses: what lies elsewhere holds an IPv4 address
# (::ffff:0:0/96, NAT64's 64:ff9b::/96) or is of local use, whatever the registry says.
_PUBLIC_IPV6 = ip_network("2000::/3")
# Public by the registry, and still a way inside: Azure's host agent, and 6to4, which holds IPv4.
_INSIDE = (ip_network("168.63.129.16/32"), ip_network("2002::/16"))
_Loc = tuple[str, ...]


def is_url(text: str) -> bool:
    """Whether an image is named by a URL that could be fetched, rather than given."""
    return text[:8].lower().startswith(("http://", "https://"))


def check_image_url(text: str, hosts: tuple[str, ...], loc: _Loc) -> httpx.URL:
    """The URL, if it is one that may be fetched. hosts: as in ImageSettings.allow_image_urls.

    Raises ImageUrlNotAllowedError; nothing has been looked up by then.
    """
    if not hosts:
        raise ImageUrlNotAllowedError(
            "this server fetches no image URLs: send the image as a data URL, or have the server "
            "started with --allow-image-urls HOST,…",
            loc,
        )
    try:
        if len(text) > _MAX_URL_LENGTH or _SUSPICIOUS.search(text):
            raise ValueError
        url = httpx.URL(text)
        name = url.raw_host.decode("ascii")
    except (ValueError, httpx.InvalidURL):
        raise ImageUrlNotAllowedError("the image's URL cannot be read", loc) from None
    if url.scheme != "https" or url.userinfo or url.port is not None or url.fragment:
        raise ImageUrlNotAllowedError(
            "an image's URL must begin with https:// and a host, without a user, a port or a "
            "fragment",
            loc,
        )
    is_name = len(name) <= _MAX_NAME_LENGTH and _NAME.fullmatch(name)
    if not is_name or not any(_matches(name, host) for host in hosts):
        raise ImageUrlNotAllowedError("this server fetches no images from the URL's host", loc)
    return url


def is_public_address(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address is of the public internet, on the face of it and indeed."""
    if isinstance(address, IPv6Address) and address not in _PUBLIC_IPV6:
        return False
    is_inside = any(address in network for network in _INSIDE)
    return address.is_global and not address.is_multicast and not is_inside


def _matches(name: str, host: str) -> bool:
    if host.startswith("*"):
        return name.endswith(host[1:])
    return name == host
