"""Who may call: with a key set, everything but the probes needs it."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from server.app import create_app
from server.settings import Settings

from .conftest import KEY
from .error_bodies import assert_error
from .parrot import Parrot, parrot_server
from .raw_http import exchange
from .running_server import Endpoint, RunningServer, assert_well, user, wait_until

PUBLIC = {"/", "/health/live", "/health/ready", "/playground"}
CHAT = {"messages": [user("hi")], "max_tokens": 1}


def send(
    server: RunningServer, headers: list[tuple[str, str]] | dict[str, str], path: str = "/info"
) -> httpx.Response:
    """A GET with these headers only."""
    with httpx.Client(base_url=server.base_url, verify=False, timeout=20) as client:
        return client.get(path, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {KEY}"},
        {"Authorization": KEY},
        {"api-key": KEY},
        {"API-Key": KEY},
        {"Authorization": f"Bearer {KEY}", "api-key": KEY},
        {"Authorization": "Bearer some-other-token", "api-key": KEY},
    ],
    ids=str,
)
def test_a_key_may_be_carried_in_several_ways(
    small: RunningServer, headers: dict[str, str]
) -> None:
    assert send(small, headers).status_code == 200
    with httpx.Client(base_url=small.base_url, verify=False, timeout=20) as client:
        assert client.post("/chat/completions", json=CHAT, headers=headers).status_code == 200
    assert_well(small)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("api-key", "")],
        [("api-key", "wrong")],
        [("api-key", KEY[:-1])],
        [("api-key", KEY + "x")],
        [("api-key", KEY.upper())],
        [("api-key", f"Bearer {KEY}")],
        [("api-key", "wrong"), ("api-key", KEY)],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer bearer")],
        [("Authorization", f"Bearer Bearer {KEY}")],
        [("Authorization", f"Basic {KEY}")],
        [("Authorization", f"Bearer {KEY[:5]}")],
        [("Authorization", f"{KEY} {KEY}")],
        [("x-api-key", KEY)],
        [("Cookie", f"api-key={KEY}")],
        [("api-key", "x" * 16_000)],
        [("api-key", "ключ".encode().decode("latin-1"))],
    ],
    ids=lambda headers: str(headers)[:60],
)
def test_without_the_right_key_there_is_only_a_401(
    small: RunningServer, headers: list[tuple[str, str]]
) -> None:
    encoded: Any = [(name, value.encode("latin-1")) for name, value in headers]
    response = send(small, encoded)
    assert_error(response, 401, "unauthorized")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert KEY not in response.text
    assert_well(small)


def test_a_key_in_the_address_is_none(small: RunningServer) -> None:
    assert_error(send(small, {}, f"/info?api-key={KEY}&key={KEY}"), 401)


def test_probes_and_the_playground_need_no_key(small: RunningServer) -> None:
    for path in PUBLIC:
        assert send(small, {}, path).status_code == 200


def test_every_route_but_the_public_ones_needs_the_key(small: RunningServer) -> None:
    """The list of public paths is written out here: a new route is private until it is too."""
    app = create_app(Settings(api_key=KEY), None, None, None)  # type: ignore[arg-type]
    paths = {context.path for context in iter_route_contexts(app.routes)}
    assert paths >= {"/chat/completions", "/info", "/openapi.json"} | PUBLIC
    with httpx.Client(base_url=small.base_url, verify=False, timeout=20) as client:
        for path in sorted(paths):
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                response = client.request(method, path)
                if path in PUBLIC:
                    assert response.status_code in (200, 405), (method, path)
                else:
                    assert response.status_code == 401, (method, path)


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "//info", "/info/", "/INFO", "/info%00", "/%2e/info", "//", "/health"),
        *("/health/live/../../info", "/health/live/%2e%2e/%2e%2e/info", "/health/live;/info"),
    ],
)
def test_no_spelling_of_a_path_gets_around_the_key(small: RunningServer, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert exchange(small, request.encode()).startswith(b"HTTP/1.1 401 ")
    assert_well(small)


@pytest.mark.parametrize(
    "head",
    [
        "GET http://x/health/live HTTP/1.1\r\nHost: x",
        "GET /info HTTP/1.1\r\nHost: x/health/live?",
        "GET /info HTTP/1.1\r\nHost: x\r\nX-Original-URL: /health/live",
        "GET /info?/health/live HTTP/1.1\r\nHost: x",
        "GET /info#/health/live HTTP/1.1\r\nHost: x",
    ],
)
def test_no_header_or_form_gets_around_the_key(small: RunningServer, head: str) -> None:
    received = exchange(small, f"{head}\r\nConnection: close\r\n\r\n".encode())
    assert b"model_name" not in received
    assert_well(small)


def test_a_wrong_key_is_found_before_the_body_is_read(small: RunningServer) -> None:
    with httpx.Client(base_url=small.base_url, verify=False, timeout=20) as client:
        response = client.post(
            "/chat/completions", content=b"{", headers={"Content-Type": "application/json"}
        )
    assert_error(response, 401, "unauthorized")


def test_the_key_is_never_logged(small: RunningServer) -> None:
    send(small, {"Authorization": f"Bearer {KEY}", "x-ms-client-request-id": "mine"})
    send(small, {"Authorization": "Bearer not-" + KEY})
    wait_until(lambda: '"client": "mine"' in small.log, 5, "the first is logged")
    assert KEY not in small.log


def test_wrong_keys_do_not_flood_the_log(small: RunningServer) -> None:
    """A line for each request, as for any other, and no second one."""
    seen = len(small.log)
    for _ in range(100):
        assert send(small, {"api-key": "wrong", "x-request-id": "knocking"}).status_code == 401
    # A line is written when its answer is out.
    wait_until(lambda: small.log[seen:].count('"knocking"') == 100, 5, "all are logged")
    assert small.log[seen:].count("\n") == 100


def test_without_a_key_on_loopback_anyone_may_call(demo: RunningServer) -> None:
    assert send(demo, {"Authorization": "Bearer whatever"}).status_code == 200


# Loopback without a key: the browser's other pages must not call


def answer(server: Endpoint, *head: str, method: str = "GET") -> bytes:
    """What a request of exactly these headers gets."""
    lines = [f"{method} /info HTTP/1.1", *head, "Connection: close", "", ""]
    return exchange(server, "\r\n".join(lines).encode("latin-1"))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:5001", "LOCALHOST", "127.0.0.1", "127.0.0.1:1", "127.9.9.9"),
        *("[::1]", "[::1]:5001", "phi.localhost:80", "host.docker.internal:5001"),
    ],
)
def test_this_machines_own_names_are_answered(demo: RunningServer, host: str) -> None:
    assert answer(demo, f"Host: {host}").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "host",
    [
        *("evil.com", "evil.com:5001", "localhost.evil.com", "evil-localhost", "127.0.0.1.nip.io"),
        *("0.0.0.0", "10.0.0.1", "[::]", "[fe80::1]", "2130706433", "localhost@evil.com", ""),
        *("evil.com/localhost", "localhost:5001:5001", "[::1", "::1]", "xhost.docker.internal"),
    ],
)
def test_another_host_is_refused_as_a_rebound_name(demo: RunningServer, host: str) -> None:
    received = answer(demo, f"Host: {host}")
    assert received.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")), received
    assert b"model_name" not in received
    assert_well(demo)


def test_a_refused_host_is_told_what_to_do(demo: RunningServer) -> None:
    response = send(demo, {"Host": "evil.com"})
    message = assert_error(response, 403, "forbidden")["message"]
    assert "--api-key" in message
    assert "--no-auth" in message


def test_two_hosts_or_none_are_no_request(demo: RunningServer) -> None:
    assert answer(demo).startswith(b"HTTP/1.1 400 ")
    assert answer(demo, "Host: localhost", "Host: evil.com").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "header",
    [
        "Origin: https://evil.com",
        "Origin: null",
        "Origin: http://localhost:3000",
        "Origin: http://localhost.evil.com:5001",
        "Origin: localhost:5001",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ],
)
def test_another_sites_page_is_refused_whatever_the_method(
    demo: RunningServer, header: str, method: str
) -> None:
    received = answer(demo, "Host: localhost:5001", header, method=method)
    assert received.startswith(b"HTTP/1.1 403 "), received
    assert b"access-control" not in received.lower()


def test_a_form_on_another_page_starts_nothing(demo: RunningServer) -> None:
    """What a page can post without asking first: text/plain, whose text may well be JSON."""
    response = demo.request(
        "POST",
        "/chat/completions",
        content=json.dumps(CHAT),
        headers={"Content-Type": "text/plain", "Origin": "https://evil.com"},
    )
    assert_error(response, 403, "forbidden")
    assert_well(demo)


@pytest.mark.parametrize(
    "headers",
    [
        ("Origin: http://localhost:5001",),
        ("Origin: http://localhost:5001", "Sec-Fetch-Site: same-origin"),
        ("Sec-Fetch-Site: none",),
    ],
)
def test_the_servers_own_page_may_call(demo: RunningServer, headers: tuple[str, ...]) -> None:
    assert answer(demo, "Host: localhost:5001", *headers).startswith(b"HTTP/1.1 200 ")


def test_probes_may_name_any_host(demo: RunningServer) -> None:
    for path in PUBLIC:
        assert send(demo, {"Host": "10.1.2.3:5001"}, path).status_code == 200


def test_with_a_key_the_host_does_not_matter(small: RunningServer) -> None:
    headers = {"api-key": KEY, "Host": "phi.example.com", "Origin": "https://evil.com"}
    assert send(small, headers).status_code == 200


def test_no_auth_lets_anyone_call(demo_checkpoint: Path) -> None:
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), no_auth=True) as server:
        received = answer(server, "Host: evil.com", "Origin: https://evil.com")
        assert received.startswith(b"HTTP/1.1 200 ")
