"""What comes before a request is looked at: its headers, its pace, its type, its ids."""

import gzip
import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .error_bodies import assert_error
from .raw_http import connect, exchange
from .running_server import RunningServer, assert_well, ready_server, user, wait_until

POST = b"POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY: dict[str, Any] = {"messages": [user("hi")], "max_tokens": 1}


def read_all(connection: socket.socket) -> bytes:
    connection.settimeout(20)
    return b"".join(iter(lambda: connection.recv(65536), b""))


def parsed(received: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """The status, headers and body of one answer."""
    head, _, body = received.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(line.split(" ")[1]), headers, json.loads(body)


# Headers


@pytest.mark.parametrize("path", ["/info", "/chat/completions", "/nothing", "/"])
def test_too_large_headers_are_a_431(demo: RunningServer, path: str) -> None:
    method = "POST" if "chat" in path else "GET"
    response = demo.request(method, path, headers={"x-canary": "canary" * 3000})
    body = assert_error(response, 431, "headers_too_large")
    assert "16384" in body["message"]
    assert "canary" not in response.text
    assert_well(demo)


def test_a_hundred_headers_are_taken_and_one_more_is_a_431(demo: RunningServer) -> None:
    def status(number: int) -> int:
        lines = [f"x-{n}: y" for n in range(number - 2)]
        head = "\r\n".join(["GET /info HTTP/1.1", "Host: localhost", "Connection: close", *lines])
        code, headers, _ = parsed(exchange(demo, f"{head}\r\n\r\n".encode()))
        assert (headers.get("x-ms-error-code") == "headers_too_large") == (code == 431)
        return code

    assert [status(number) for number in (100, 101, 4000)] == [200, 431, 431]
    assert_well(demo)


def test_a_long_address_counts_as_well(demo: RunningServer) -> None:
    assert_error(demo.get("/info?api-version=" + "x" * 20_000), 431, "headers_too_large")
    assert demo.get("/info?api-version=" + "x" * 8000).status_code == 200


def test_a_head_without_an_end_is_a_431_as_soon_as_it_is_too_long(demo: RunningServer) -> None:
    """Whatever was not read yet may be lost with the connection, so it is sent in pieces."""
    with connect(demo) as connection:
        connection.sendall(b"GET /info HTTP/1.1\r\nHost: localhost\r\nx-long: ")
        received = b""
        connection.settimeout(0.05)
        for _ in range(200):
            try:
                connection.sendall(b"x" * 200)
                received += connection.recv(65536)
            except (TimeoutError, ConnectionError):
                continue
            break
    status, headers, body = parsed(received)
    assert (status, body["code"]) == (431, "headers_too_large")
    assert headers["x-request-id"] in demo.log
    assert_well(demo)


@pytest.mark.parametrize("header", ["x-request-id", "x-ms-client-request-id"])
def test_request_ids_are_echoed_and_must_not_hurt(demo: RunningServer, header: str) -> None:
    def answer(value: bytes, path: str = "/info") -> Any:
        with demo.client(headers={}) as client:
            return client.get(path, headers={header.encode(): value})  # type: ignore[dict-item]

    for good in ("abc-123", "x" * 100, "{a:b}"):
        assert answer(good.encode()).headers[header] == good
    assert answer(b"").status_code == 200
    for path in ("/info", "/", "/nothing"):
        response = answer(b"x" * 101, path)
        assert_error(response, 431, "headers_too_large")
        assert "x" * 101 not in str(response.headers)
    for bad in (b"two words", "ü".encode(), "😀".encode(), b"\xff", b"a\x7f", b"a\tb"):
        response = answer(bad)
        assert_error(response, 400, "invalid_header")
        assert response.headers.get(header) != bad.decode("latin-1")
    assert_well(demo)


def test_a_line_break_in_an_id_is_no_http(demo: RunningServer) -> None:
    head = b"GET /info HTTP/1.1\r\nHost: localhost\r\nx-request-id: a\rsmuggled\r\n\r\n"
    assert exchange(demo, head).startswith(b"HTTP/1.1 400 ")
    assert "smuggled" not in demo.log
    assert_well(demo)


def test_each_error_carries_the_ids_that_came_with_its_request(demo: RunningServer) -> None:
    ids = {"x-request-id": "mine-1", "x-ms-client-request-id": "mine-2"}
    for path, status in (("/nothing", 404), ("/chat/completions", 405)):
        response = demo.request("GET", path, headers=ids)
        assert response.status_code == status
        assert {name: response.headers[name] for name in ids} == ids


def test_a_body_that_breaks_off_into_nonsense_is_hung_up_on(demo: RunningServer) -> None:
    """Before its answer, and in the middle of one."""
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert parsed(exchange(demo, chunked + b"zz\r\n"))[0] == 400
    stream = json.dumps(BODY | {"stream": True, "max_tokens": 500}).encode()
    with connect(demo) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(stream) + stream)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"no http\r\n\r\n")
        rest = read_all(connection)
    assert rest.count(b"HTTP/1.1 4") <= 1  # the answer's end, and one to what followed it
    assert_well(demo)


# The body's declared type


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions", "/score"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "text/json"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/json-seq"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "canary/canary"},
    ],
    ids=str,
)
def test_a_body_that_is_not_declared_as_json_is_a_415(
    demo: RunningServer, path: str, headers: dict[str, str]
) -> None:
    """What a page elsewhere makes a browser send without asking first is none of what is taken."""
    content = json.dumps(BODY).encode()
    response = demo.request("POST", path, content=content, headers=headers)
    assert_error(response, 415, "unsupported_media_type")
    assert "canary" not in response.text
    assert_well(demo)


@pytest.mark.parametrize(
    "declared",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/vnd.api+json",
    ],
)
def test_json_has_several_names(demo: RunningServer, declared: str) -> None:
    content = json.dumps(BODY).encode()
    headers = {"Content-Type": declared, "Content-Encoding": "identity"}
    response = demo.request("POST", "/chat/completions", content=content, headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("packed", ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity"])
def test_a_compressed_body_is_a_415_and_never_unpacked(demo: RunningServer, packed: str) -> None:
    """10 kB can unpack to a gigabyte."""
    headers = {"Content-Type": "application/json", "Content-Encoding": packed}
    memory = demo.resources.memory_info().rss
    for content in (gzip.compress(json.dumps(BODY).encode()), gzip.compress(bytes(100 << 20))):
        response = demo.request("POST", "/chat/completions", content=content, headers=headers)
        assert_error(response, 415, "unsupported_media_type")
    assert demo.resources.memory_info().rss - memory < 30 << 20
    assert_well(demo)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_another_encoding_is_a_422(demo: RunningServer, encoding: str) -> None:
    content = json.dumps(BODY).encode(encoding)
    assert_error(demo.post_bytes(content), 422, "invalid_parameter", "")


def test_of_a_key_given_twice_the_last_one_counts(demo: RunningServer) -> None:
    """As in every common reader of JSON. A proxy that reads the first would decide otherwise."""
    twice = b'{"max_tokens": 9, "messages": [], "max_tokens": 1, "messages": [%s]}'
    response = demo.post_bytes(twice % json.dumps(user("hi")).encode())
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 1
    assert_error(demo.post_bytes(twice % b""), 422, "invalid_parameter", "messages")


@pytest.mark.parametrize(
    "text", ["\u0000", "e" + "\u0301" * 50_000, "\u202etxt.exe", "x" * 40_000], ids=len
)
def test_text_of_an_odd_kind_is_text(demo: RunningServer, text: str) -> None:
    response = demo.ask(text, max_tokens=1)
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        assert_error(response, 400, "context_length_exceeded")
    assert_well(demo)


# Pace

PATIENCE_S = 1.0


@pytest.fixture(scope="module")
def impatient(demo_checkpoint: Path, logs: Path) -> Iterator[RunningServer]:
    """A server that waits a second for a request."""
    flags = ("--max-receive-s", str(PATIENCE_S))
    with ready_server(logs / "impatient.log", demo_checkpoint, *flags) as server:
        yield server


def test_a_head_that_does_not_end_is_a_408(impatient: RunningServer) -> None:
    with connect(impatient) as connection:
        connection.sendall(POST)
        status, headers, body = parsed(read_all(connection))
    assert (status, body["code"], headers["connection"]) == (408, "request_timeout", "close")
    assert headers["content-type"] == "application/json"
    assert_well(impatient)


def test_a_connection_without_a_byte_is_closed_without_a_word(impatient: RunningServer) -> None:
    """An answer that nobody asked for would be taken for that of the next request."""
    with connect(impatient) as connection:
        assert read_all(connection) == b""


@pytest.mark.parametrize("sent", [b"", b'{"messages": ['])
def test_a_body_that_does_not_end_is_a_408(impatient: RunningServer, sent: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\nx-request-id: slow\r\n\r\n" + sent)
        status, headers, body = parsed(read_all(connection))
    assert (status, body["code"], headers["connection"]) == (408, "request_timeout", "close")
    assert headers["x-request-id"] == "slow"
    assert "retry-after" not in headers
    assert_well(impatient)


def is_open(connection: socket.socket) -> bool:
    """Whether one more byte of a body can be sent."""
    try:
        connection.sendall(b"1\r\nx\r\n")
    except ConnectionError:
        return False
    return True


def test_a_body_that_nobody_reads_does_not_come_for_ever(impatient: RunningServer) -> None:
    """Its answer is out long before its end."""
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(impatient) as connection:
        connection.sendall(head)
        wait_until(lambda: not is_open(connection), 20, "the connection is closed")
    assert_well(impatient)


def test_the_second_request_of_a_connection_has_its_own_deadline(impatient: RunningServer) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with http.client.HTTPResponse(connection) as first:
            first.begin()
            assert first.status == 200
            first.read()
        connection.sendall(b"GET /info HTTP/1.1\r\nHost: localhost\r\n")
        assert parsed(read_all(connection))[0] == 408
    assert_well(impatient)


def test_an_answer_may_take_longer_than_its_request_could(impatient: RunningServer) -> None:
    """The deadline is for what comes in: a long answer, streamed or whole, is none of its
    business."""
    start = time.monotonic()
    number = 100
    while time.monotonic() - start < 1.5 * PATIENCE_S:
        start, number = time.monotonic(), 2 * number
        assert number < 100_000, "answers come too fast to tell"
        assert impatient.ask("golden", max_tokens=number).status_code == 200
    response = impatient.ask("golden", max_tokens=number, stream=True)
    assert response.text.endswith("data: [DONE]\n\n")


def test_slow_senders_hold_up_nobody(impatient: RunningServer) -> None:
    """Half of them in their heads, half in their bodies, a byte at a time."""
    connections = [connect(impatient) for _ in range(200)]
    length = b"Content-Length: 100000\r\n\r\n"
    for number, connection in enumerate(connections):
        connection.sendall(POST + (length if number % 2 else b"x-slow: "))

    def drip() -> None:
        for _ in range(40):
            for connection in connections:
                try:
                    connection.sendall(b"x")
                except OSError:  # closed on
                    continue
            time.sleep(0.1)

    with ThreadPoolExecutor(1) as threads:
        dripping = threads.submit(drip)
        while not dripping.done():
            assert impatient.ask("hi", max_tokens=1).status_code == 200
        dripping.result()
    for connection in connections:
        with connection:
            try:
                received = read_all(connection)
            except ConnectionError:  # a byte was sent after the end
                continue
            assert received == b"" or parsed(received)[0] == 408
    assert_well(impatient)
