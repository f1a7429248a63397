"""Who may call: with a key set, everything but the probes needs it."""

from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from server.app import create_app
from server.settings import Settings

from .conftest import KEY
from .error_bodies import assert_error
from .raw_http import exchange
from .running_server import RunningServer, assert_well, user

PUBLIC = {"/", "/health/live", "/health/ready"}
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


def test_probes_need_no_key(small: RunningServer) -> None:
    for path in PUBLIC:
        assert send(small, {}, path).status_code == 200


def test_every_route_but_the_probes_needs_the_key(small: RunningServer) -> None:
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
    assert "client=mine" in small.log
    assert KEY not in small.log


def test_without_a_key_on_loopback_anyone_may_call(demo: RunningServer) -> None:
    assert send(demo, {"Authorization": "Bearer whatever"}).status_code == 200
