"""Pictures named by URL: fetched where that was allowed, and never a way into our own network."""

import asyncio
import gc
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme

from server.errors import APIError, ImageFetchError, ImageUrlNotAllowedError, RateLimitError
from server.image_fetcher import ImageFetcher
from server.image_urls import check_image_url, is_public_address
from server.settings import Settings, SettingsError, load_settings

from .error_bodies import assert_error
from .image_host import (
    NAME,
    OTHER,
    PICTURE,
    ImageHost,
    Names,
    expired,
    fetcher_for,
    image_host,
    names_of,
)
from .parrot import Parrot, ParrotServer, parrot_server
from .pictures import image_part
from .raw_http import connect
from .running_server import Endpoint, assert_well, user, wait_until

LOC = ("body", "messages", "0", "content", "0", "image_url", "url")
URL = f"https://{NAME}/picture.png"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def host(authority: trustme.CA) -> Iterator[ImageHost]:
    with image_host(authority) as host:
        yield host


def fetch(fetcher: ImageFetcher, url: str = URL) -> bytes:
    async def fetch_and_close() -> bytes:
        try:
            return await fetcher.fetch(url, LOC)
        finally:
            await asyncio.sleep(0.02)  # a loop that ended at once would leave the socket open

    return asyncio.run(fetch_and_close())


def failure(fetcher: ImageFetcher, url: str = URL) -> ImageFetchError:
    """The error for all that goes wrong on the network."""
    with pytest.raises(ImageFetchError) as error:
        fetch(fetcher, url)
    assert error.value.status == 422
    assert error.value.problem.loc == LOC
    assert error.value.problem.value is None
    return error.value


# Which URLs


@pytest.mark.parametrize(
    "url",
    [
        *(f"https://{NAME}/x.png", f"HTTPS://{NAME.upper()}", f"https://{NAME}:443/x?a=b&c=%2F"),
        *(f"https://a.b.{NAME}/", "https://xn--bcher-kva.example/x", "https://bücher.example/x"),
    ],
)
def test_a_url_on_an_allowed_host_may_be_fetched(url: str) -> None:
    hosts = (NAME, f"*.{NAME}", "xn--bcher-kva.example")
    assert check_image_url(url, hosts, LOC).scheme == "https"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.com/x.png",
        f"https://{NAME}.evil.com/",
        f"https://evil-{NAME}/",
        f"https://evil.com/{NAME}",
        f"https://evil.com?{NAME}",
        f"https://{NAME}.",
        f"https://{NAME}./",
        f"https://{NAME}%00.evil.com/",
        f"https://{NAME}%2eevil.com/",
        f"https://{NAME}\\@evil.com/",
        f"https://{NAME}\\.evil.com/",
        f"https:\\\\{NAME}/",
        f"https://{NAME}#@evil.com/",
        f"https://evil.com#@{NAME}/",
        f"https://evil.com\\#@{NAME}/",
        f"https://user@{NAME}/",
        f"https://user:password@{NAME}/",
        f"https://{NAME}@evil.com/",
        f"https://{NAME}:22/",
        f"https://{NAME}:80/",
        f"https://{NAME}:443@evil.com/",
        f"https://{NAME}:x/",
        f"https://{NAME} /",
        f"https://{NAME}\t.evil.com/",
        f"https://{NAME}\n/",
        f"https://{NAME}\r\nHost: evil.com/",
        f" https://{NAME}/",
        f"https:///{NAME}/",
        f"https:{NAME}/",
        f"http://{NAME}/",
        f"ftp://{NAME}/",
        f"gopher://{NAME}/",
        f"//{NAME}/x.png",
        "/etc/passwd",
        "file:///etc/passwd",
        f"file://{NAME}/etc/passwd",
        "\\\\unc\\share",
        "javascript:alert(1)",
        "x.png",
        "",
        "https://",
        "https://pіctures.test/",  # a Cyrillic і
        f"https://{'a' * 64}.{NAME}/",
        f"https://{'a.' * 130}{NAME}/",
        f"https://{NAME}/{'x' * 4096}",
    ],
)
@pytest.mark.parametrize("hosts", [(NAME, f"*.{NAME}"), ("*",)], ids=["some", "any"])
def test_no_other_url_is_fetched(url: str, hosts: tuple[str, ...]) -> None:
    if hosts == ("*",) and url in EVILS_OWN:
        return
    with pytest.raises(ImageUrlNotAllowedError) as error:
        check_image_url(url, hosts, LOC)
    assert error.value.problem.loc == LOC
    assert "evil" not in str(error.value)


# These lie in nothing: with any host allowed they may be fetched.
EVILS_OWN = {
    "https://evil.com/x.png",
    f"https://{NAME}.evil.com/",
    f"https://evil-{NAME}/",
    f"https://evil.com/{NAME}",
    f"https://evil.com?{NAME}",
    "https://pіctures.test/",
}


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "0.0.0.0", "[::1]", "[::]", "169.254.169.254", "168.63.129.16", "10.0.0.1"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[fe80::1%25eth0]"),
        *("2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "0177.1", "127.1", "1.2.3.0x4"),
        *("localhost", "localhost.", "metadata", "8.8.8.8", "[2606:4700::1]", "１２７.0.0.1"),
    ],
)
def test_an_address_is_no_host_even_where_any_is_allowed(host: str) -> None:
    with pytest.raises(ImageUrlNotAllowedError):
        check_image_url(f"https://{host}/x.png", ("*",), LOC)


def test_a_wildcard_is_for_subdomains_only() -> None:
    with pytest.raises(ImageUrlNotAllowedError):
        check_image_url(f"https://{NAME}/", (f"*.{NAME}",), LOC)
    with pytest.raises(ImageUrlNotAllowedError):
        check_image_url(f"https://{OTHER}/", (NAME,), LOC)


@pytest.mark.parametrize(
    "host", ["", "*.", "*.com.*", "a b.com", "https://a.com", "a.com:443", "a.com/x", "10.0.0.1"]
)
def test_what_is_no_host_cannot_be_allowed(host: str) -> None:
    with pytest.raises(SettingsError, match="allow_image_urls"):
        load_settings({"allow_image_urls": host}, {})


def test_hosts_are_listed_with_commas_or_as_a_list(tmp_path: Path) -> None:
    hosts = ("a.example.com", "*.b.com")
    assert (
        load_settings({"allow_image_urls": "A.example.com, *.b.com"}, {}).allow_image_urls == hosts
    )
    file = tmp_path / "phi3v.toml"
    file.write_text('allow_image_urls = ["a.example.com", "*.b.com"]')
    assert load_settings({}, {}, file).allow_image_urls == hosts
    assert Settings().allow_image_urls == ()


# Which addresses


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.255", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "168.63.129.16", "100.64.0.1", "192.0.0.1", "198.18.0.1", "224.0.0.1"),
        *("239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "203.0.113.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "2001:db8::1"),
        *("64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "100::1"),
    ],
)
def test_addresses_that_lead_inside_are_not_public(address: str) -> None:
    assert not is_public_address(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "20.42.0.1", "2606:4700::1", "2a00::1"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public_address(ip_address(address))


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["2606:4700::1", "::1"],
        ["::ffff:127.0.0.1"],
        [],
    ],
)
def test_one_address_inside_is_enough_to_refuse_a_name(
    authority: trustme.CA, host: ImageHost, addresses: list[str]
) -> None:
    """Nothing is sent to any of them, the public ones included."""
    names = names_of(host)
    names.answers[NAME] = [(address, host.port) for address in addresses]
    failure(fetcher_for(authority, names, is_allowed=is_public_address))
    assert host.num_connections == 0


def test_a_name_that_is_rebound_leads_nowhere_else(authority: trustme.CA, host: ImageHost) -> None:
    """It is asked for once for each fetch, and the connection goes to what was checked."""

    class Rebinding(Names):
        async def resolve(self, name: str) -> list[tuple[str, int]]:
            self.asked.append(name)
            return [("127.0.0.1" if len(self.asked) % 2 else "127.0.0.2", host.port)]

    with socket.create_server(("127.0.0.2", host.port)) as inside:
        inside.settimeout(0.2)
        names = Rebinding()
        fetcher = fetcher_for(authority, names)
        assert fetch(fetcher) == PICTURE
        assert names.asked == [NAME]
        failure(fetcher)
        with pytest.raises(TimeoutError):
            inside.accept()


# Fetching


def test_the_picture_comes_from_the_address_under_the_names_own_name(
    authority: trustme.CA, host: ImageHost
) -> None:
    assert fetch(fetcher_for(authority, names_of(host)), URL + "?a=b&c=%2F") == PICTURE
    path, headers = host.requests[0]
    assert path == "/picture.png?a=b&c=%2F"
    assert headers["Host"] == NAME
    assert host.names_asked_for == [NAME]


def test_the_next_address_is_tried_where_one_does_not_answer(
    authority: trustme.CA, host: ImageHost
) -> None:
    names = names_of(host)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        names.answers[NAME].insert(0, closed.getsockname())
        assert fetch(fetcher_for(authority, names)) == PICTURE


@pytest.mark.parametrize(
    "path",
    [
        *("/404", "/500", "/204", "/304", "/page.html", "/empty", "/packed", "/nonsense"),
        "/shorter-than-said",
        "/endless",
    ],
)
def test_what_is_no_picture_or_not_whole_is_one_and_the_same_error(
    authority: trustme.CA, host: ImageHost, path: str
) -> None:
    names = names_of(host)
    fetcher = fetcher_for(authority, names)
    error = failure(fetcher, f"https://{NAME}{path}")
    assert host.requests
    names.answers.clear()
    assert str(error) == str(failure(fetcher))


def test_bytes_beyond_the_stated_length_are_not_read(
    authority: trustme.CA, host: ImageHost
) -> None:
    fetcher = fetcher_for(authority, names_of(host))
    assert fetch(fetcher, f"https://{NAME}/longer-than-said") == PICTURE


@pytest.mark.parametrize("path", ["/slow", "/silent", "/headers"])
def test_a_slow_host_is_given_up(authority: trustme.CA, host: ImageHost, path: str) -> None:
    fetcher = fetcher_for(authority, names_of(host), timeout_s=0.5)
    failure(fetcher, f"https://{NAME}{path}")
    assert fetch(fetcher_for(authority, names_of(host))) == PICTURE


def test_exactly_the_size_allowed_is_fetched(authority: trustme.CA, host: ImageHost) -> None:
    names = names_of(host)
    assert fetch(fetcher_for(authority, names, max_bytes=len(PICTURE))) == PICTURE
    failure(fetcher_for(authority, names, max_bytes=len(PICTURE) - 1))


@pytest.mark.parametrize("fault", ["expired", "of another name", "of another authority"])
def test_a_certificate_must_be_the_names_own(authority: trustme.CA, fault: str) -> None:
    signed_by = trustme.CA() if fault == "of another authority" else authority
    named = ("evil.test",) if fault == "of another name" else (NAME,)
    dates = expired() if fault == "expired" else {}
    with image_host(signed_by, *named, **dates) as host:
        failure(fetcher_for(authority, names_of(host)))
        assert not host.requests


def test_a_plain_port_gets_no_request(authority: trustme.CA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain, ThreadPoolExecutor(1) as threads:
        names = Names(**{NAME: [plain.getsockname()]})
        plain.settimeout(5)
        failed = threads.submit(failure, fetcher_for(authority, names, timeout_s=0.5))
        connection, _ = plain.accept()
        with connection:
            connection.settimeout(5)
            assert connection.recv(3) == b"\x16\x03\x01"  # a TLS handshake
            failed.result()
            while connection.recv(4096):  # and what was begun is closed
                pass


def test_a_name_that_does_not_exist_fails_like_all_else() -> None:
    """Through the resolver of the machine."""
    fetcher = ImageFetcher(("*",), max_bytes=1 << 20, timeout_s=5.0, max_fetches=1)
    failure(fetcher, "https://no-such-host.invalid/x.png")


# Redirects


def chain(host: ImageHost, *targets: str) -> str:
    """A URL that redirects to the first target; each to the next."""
    paths = [f"/step-{number}" for number in range(len(targets))]
    host.redirects = dict(zip(paths, targets, strict=True))
    return f"https://{NAME}/step-0"


def test_three_redirects_are_followed_and_a_fourth_is_not(
    authority: trustme.CA, host: ImageHost
) -> None:
    names = names_of(host)
    url = chain(host, "/step-1", f"https://{OTHER}/step-2", f"//{NAME}/picture.png")
    assert fetch(fetcher_for(authority, names), url) == PICTURE
    assert names.asked == [NAME, NAME, OTHER, NAME]  # each is looked up and checked anew
    assert host.names_asked_for == names.asked
    assert not [headers for _, headers in host.requests if "Cookie" in headers]
    url = chain(host, "/step-1", "/step-2", "/step-3", "/picture.png")
    failure(fetcher_for(authority, names), url)


@pytest.mark.parametrize(
    "target",
    [
        "https://inside.pictures.test/picture.png",
        "https://127.0.0.1/picture.png",
        "https://[::ffff:127.0.0.1]/picture.png",
        "https://2130706433/picture.png",
        "https://localhost/picture.png",
        "https://169.254.169.254/latest/meta-data/",
        f"http://{NAME}/picture.png",
        f"https://{NAME}:8443/picture.png",
        f"https://user@{NAME}/picture.png",
        "https://evil.com/picture.png",
        f"https://evil.com\\@{NAME}/picture.png",
        "//evil.com/picture.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "javascript:1",
        "/step-0",
        "",
    ],
)
def test_a_redirect_is_checked_like_the_first_url(
    authority: trustme.CA, host: ImageHost, target: str
) -> None:
    names = names_of(host)
    names.answers["inside.pictures.test"] = [("127.0.0.2", host.port)]
    fetcher = fetcher_for(authority, names)
    error = failure(fetcher, chain(host, target))
    assert {path for path, _ in host.requests} == {"/step-0"}
    assert str(error) == str(failure(fetcher, f"https://{NAME}/404"))


# What goes out


def test_no_proxy_credential_or_cookie_is_used(
    authority: trustme.CA,
    host: ImageHost,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {NAME} login me password secret\ndefault login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.2)
        for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        fetcher = fetcher_for(authority, names_of(host))
        assert fetch(fetcher, chain(host, "/picture.png")) == PICTURE
        with pytest.raises(TimeoutError):
            proxy.accept()
    for _, headers in host.requests:
        assert headers == {
            "Host": NAME,
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "User-Agent": "phi3v-server",
            "Connection": "close",
        }


def test_the_url_is_not_logged(
    authority: trustme.CA, host: ImageHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="server")
    failure(fetcher_for(authority, names_of(host)), f"https://{NAME}/404?sig=secret")
    assert "its host answered 404" in caplog.text
    assert "secret" not in caplog.text


# Several at once


def test_as_many_are_fetched_at_once_as_are_allowed(authority: trustme.CA, host: ImageHost) -> None:
    fetcher = fetcher_for(authority, names_of(host), max_fetches=2, timeout_s=1)

    async def all_at_once() -> list[Any]:
        fetches = [fetcher.fetch(f"https://{NAME}/silent?{n}", LOC) for n in range(8)]
        return list(await asyncio.gather(*fetches, return_exceptions=True))

    errors = asyncio.run(all_at_once())
    assert host.most_open <= 2
    assert {type(error) for error in errors} == {ImageFetchError, RateLimitError}
    # Not this request's fault, so worth trying again.
    refused = next(error for error in errors if isinstance(error, RateLimitError))
    assert refused.headers == {"Retry-After": "1"}
    assert fetch(fetcher) == PICTURE


def test_all_of_a_requests_pictures_are_fetched_together(
    authority: trustme.CA, host: ImageHost
) -> None:
    fetcher = fetcher_for(authority, names_of(host))
    urls = [(f"https://{NAME}/picture.png?{n % 2}", LOC) for n in range(4)]
    files = asyncio.run(fetcher.fetch_all(urls))
    assert files == {f"https://{NAME}/picture.png?{n}": PICTURE for n in range(2)}
    assert len(host.requests) == 2


def test_one_that_fails_calls_the_others_off(authority: trustme.CA, host: ImageHost) -> None:
    fetcher = fetcher_for(authority, names_of(host), timeout_s=15)
    urls = [(f"https://{NAME}{path}", LOC) for path in ("/silent", "/404", "/slow")]
    start = time.monotonic()
    with pytest.raises(APIError):
        asyncio.run(fetcher.fetch_all(urls))
    assert time.monotonic() - start < 10


# Over HTTP


@pytest.fixture
def server(authority: trustme.CA, host: ImageHost, demo_checkpoint: Path) -> Iterator[ParrotServer]:
    fetcher = fetcher_for(authority, names_of(host), max_fetches=2, timeout_s=3)
    parrot = Parrot(demo_checkpoint)
    with parrot_server(demo_checkpoint, parrot, image_fetcher=fetcher) as server:
        yield server


def about(url: str) -> dict[str, Any]:
    """A conversation about a picture, at whose end something else is said."""
    picture = {"type": "image_url", "image_url": {"url": url}}
    said = {"role": "assistant", "content": "A picture."}
    return {"messages": [{"role": "user", "content": [picture]}, said, user("Parrot")]}


def test_a_fetched_picture_is_the_same_as_one_sent(server: ParrotServer) -> None:
    fetched = server.post(about(URL))
    sent = server.post(about(image_part(PICTURE)["image_url"]["url"]))
    assert fetched.status_code == sent.status_code == 200, fetched.text
    assert fetched.json()["choices"] == sent.json()["choices"]
    usages = [answer.json()["usage"] for answer in (fetched, sent)]
    for usage in usages:
        del usage["prompt_tokens_details"]["cached_tokens"]  # the second finds the first's
    assert usages[0] == usages[1]
    assert_well(server)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (f"https://{NAME}/404", "image_fetch_failed"),
        (f"https://{NAME}/page.html", "image_fetch_failed"),
        ("https://unknown.pictures.test/x.png", "image_fetch_failed"),
        ("https://evil.com/x.png", "image_url_not_allowed"),
        ("https://127.0.0.1/x.png", "image_url_not_allowed"),
        ("http://pictures.test/x.png", "image_url_not_allowed"),
        ("ftp://pictures.test/x.png", "invalid_parameter"),
        ("file:///etc/passwd", "invalid_parameter"),
        ("x.png", "invalid_parameter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_fetched_is_the_callers_error(
    server: ParrotServer, url: str, code: str, stream: bool
) -> None:
    refused = server.post(about(url) | {"stream": stream})
    error = assert_error(refused, 422, code, "messages.0.content.0.image_url.url")
    assert url not in error["message"]
    assert_well(server)


def test_only_pictures_that_are_kept_are_fetched(server: ParrotServer, host: ImageHost) -> None:
    messages = [*about(f"https://{NAME}/404")["messages"], *about(URL)["messages"]]
    assert server.post({"messages": messages}).status_code == 200
    assert [path for path, _ in host.requests] == ["/picture.png"]


def test_text_is_not_searched_for_urls(server: ParrotServer, host: ImageHost) -> None:
    assert server.text(f"![x]({URL}) {URL}", max_tokens=1)
    assert host.num_connections == 0


def test_others_are_answered_while_hosts_are_silent(server: ParrotServer, host: ImageHost) -> None:
    with ThreadPoolExecutor(8) as threads:
        silent = [
            threads.submit(server.post, about(f"https://{NAME}/silent?{n}")) for n in range(8)
        ]
        wait_until(lambda: host.num_open == 2, 5, "the first are being fetched")
        for _ in range(20):
            assert server.text("Hello") == "Hello"
        assert host.num_open == 2  # still
        assert {future.result().status_code for future in silent} == {422, 429}
    assert_well(server)


def test_leaving_calls_the_fetch_off(server: ParrotServer, host: ImageHost) -> None:
    tasks = server.tasks()
    for n in range(6):  # more than can be fetched at once, were any left behind
        begin(server, f"https://{NAME}/slow?{n}").close()
    wait_until(lambda: host.num_open == 0 and server.tasks() == tasks, 2, "all is called off")
    assert server.post(about(URL)).status_code == 200
    assert_well(server)


def begin(server: Endpoint, url: str) -> socket.socket:
    """A request whose picture is being fetched."""
    part = f'{{"type":"image_url","image_url":{{"url":"{url}"}}}}'
    body = f'{{"messages":[{{"role":"user","content":[{part}]}}]}}'
    connection = connect(server)
    connection.sendall(
        b"POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    time.sleep(0.1)
    return connection


def test_no_connection_is_left_open(authority: trustme.CA, host: ImageHost) -> None:
    """A socket that is not closed would warn when it is collected, and warnings are errors."""
    fetcher = fetcher_for(authority, names_of(host), timeout_s=0.3)

    async def fetch_all_kinds() -> None:
        for path in ("/picture.png", "/404", "/silent", "/slow", "/endless", "/nonsense"):
            with suppress(ImageFetchError):
                await fetcher.fetch(f"https://{NAME}{path}", LOC)
        async with asyncio.timeout(5):
            while host.num_open:  # noqa: ASYNC110 - the host has threads
                await asyncio.sleep(0.01)

    asyncio.run(fetch_all_kinds())
    gc.collect()
