"""Whatever a caller sends, the answer has a fitting status and one readable shape."""

import json
import re
import socket
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .error_bodies import assert_error
from .event_streams import stream
from .pictures import data_url, image_part, plain_png
from .raw_http import exchange
from .running_server import RunningServer, assert_well, user

PARAMETERS = ("frequency_penalty", "presence_penalty", "temperature", "top_p", "max_tokens", "seed")
PNG = plain_png(8, 8)
POST = b"POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/embeddings", 404, "not_found"),
        ("POST", "/images/embeddings", 404, "not_found"),
        ("POST", "/completions", 404, "not_found"),
        ("POST", "/chat/completions/", 404, "not_found"),
        ("POST", "//chat/completions", 404, "not_found"),
        ("GET", "/chat/completions/../../etc/passwd", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/chat/completions", 405, "method_not_allowed"),
        ("PUT", "/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/chat/completions", 405, "method_not_allowed"),
        ("OPTIONS", "/chat/completions", 405, "method_not_allowed"),
        ("POST", "/info", 405, "method_not_allowed"),
        ("POST", "/health/live", 405, "method_not_allowed"),
    ],
)
def test_the_frameworks_own_errors_have_the_shape_too(
    demo: RunningServer, method: str, path: str, status: int, code: str
) -> None:
    response = demo.request(method, path)
    assert_error(response, status, code)
    assert ("allow" in response.headers) == (status == 405)
    assert_well(demo)


def test_a_path_that_is_only_almost_right_does_not_redirect(demo: RunningServer) -> None:
    """A redirected POST would lose its body or its key on the way."""
    with demo.client(follow_redirects=False) as client:
        assert_error(client.post("/chat/completions/", json={}), 404, "not_found")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"[]",
        b"null",
        b"true",
        b'"x"',
        b"{}",
        b'{"messages": [{"role": "user", "content": "hi"}]',
        b"{'messages': []}",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_body_that_is_no_request_is_a_422(demo: RunningServer, content: bytes) -> None:
    assert_error(demo.post_bytes(content), 422, "invalid_parameter")
    assert_well(demo)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\xfd",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"x":' * 100_000,
        b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_body_that_no_reader_gets_through_is_the_callers_fault(
    demo: RunningServer, content: bytes
) -> None:
    assert_error(demo.post_bytes(content), 422, "invalid_parameter", "")
    assert_well(demo)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_a_number_that_is_not_finite_is_a_422(
    demo: RunningServer, parameter: str, number: str
) -> None:
    """JSON knows no NaN, though Python's own reader does: the place is told in bytes."""
    content = f'{{"messages": [{{"role": "user", "content": "hi"}}], "{parameter}": {number}}}'
    response = demo.post_bytes(content.encode())
    assert_error(response, 422, "invalid_parameter", "")
    place = re.search(r"byte (\d+)|out of range", response.json()["message"])
    assert place
    if place[1]:
        assert content[int(place[1]) :].startswith(number.lstrip("-"))
    assert_well(demo)


def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(demo: RunningServer) -> None:
    for body in (
        '{"messages": NaN}',
        '{"messages": [NaN]}',
        '{"messages": [{"role": Infinity, "content": "hi"}]}',
        '{"messages": [{"role": "user", "content": -Infinity}]}',
        '{"messages": [{"role": "user", "content": "hi"}], "stop": NaN}',
        '{"messages": [{"role": "user", "content": "hi"}], "stream": NaN}',
    ):
        assert_error(demo.post_bytes(body.encode()), 422, "invalid_parameter")
    assert_well(demo)


@pytest.mark.parametrize("value", [True, False, "warm", [], {}, [1], {"a": 1}], ids=repr)
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_a_parameter_of_a_wrong_type_is_a_422(
    demo: RunningServer, parameter: str, value: Any
) -> None:
    assert_error(demo.ask("hi", **{parameter: value}), 422, "invalid_parameter", parameter)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("temperature", -0.01),
        ("temperature", 2.01),
        ("top_p", 0),
        ("top_p", -0.5),
        ("top_p", 1.01),
        ("frequency_penalty", -2.01),
        ("frequency_penalty", 2.01),
        ("presence_penalty", -2.01),
        ("presence_penalty", 2.01),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", 0.5),
        ("stop", [""]),
        ("stop", ""),
        ("stop", ["x"] * 17),
        ("stop", ["x" * 1025]),
        ("stop", 3),
        ("stop", [3]),
        ("stop", [None]),
        ("stop", {"a": "b"}),
        ("stream", "perhaps"),
        ("stream", 2),
        ("stream", []),
        ("response_format", "yaml"),
        ("response_format", {"type": "yaml"}),
        ("response_format", {}),
        ("response_format", 1),
        ("tools", "hammer"),
        ("model", 5),
        ("messages", []),
        ("messages", [user("")] * 1025),
        ("messages", {}),
        ("messages", "hi"),
        ("messages", [[]]),
        ("messages", ["hi"]),
        ("messages", [{}]),
        ("messages", [{"content": "hi"}]),
        ("messages", [{"role": "wizard", "content": "hi"}]),
        ("messages", [{"role": "user", "content": 3}]),
        ("messages", [{"role": "user", "content": {"text": "hi"}}]),
        ("messages", [{"role": "user", "content": ["hi"]}]),
        ("messages", [{"role": "user", "content": [{}]}]),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": 1}]}]),
        ("messages", [{"role": "user", "content": [{"type": "video", "video": {}}]}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        ("messages", [{"role": "system", "content": [image_part(PNG)]}]),
        ("messages", [{"role": "assistant", "content": [image_part(PNG)]}]),
    ],
    ids=repr,
)
def test_a_value_out_of_bounds_is_a_422_that_names_it(
    demo: RunningServer, parameter: str, value: Any
) -> None:
    body = {"messages": [user("hi")], parameter: value}
    error = assert_error(demo.post(body), 422, "invalid_parameter")
    # A check of several fields names its own only in the message.
    assert parameter in ".".join(error["detail"][0]["loc"]) + error["message"]
    assert_well(demo)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("temperature", 0),
        ("temperature", 2),
        ("temperature", 1e-30),
        ("top_p", 1),
        ("top_p", 1e-9),
        ("frequency_penalty", -2),
        ("frequency_penalty", 2),
        ("presence_penalty", -2),
        ("presence_penalty", 2),
        ("max_tokens", 1),
        ("seed", 0),
        ("seed", -1),
        ("seed", 2**63 - 1),
        ("seed", -(2**63)),
        ("stop", ["x"] * 16),
        ("stop", ["\u0000", "é" * 1024]),
        ("model", ""),
        ("model", "../../etc/passwd"),
        ("model", "x" * 10_000),
        ("tools", []),
        ("tool_choice", "none"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_value_at_its_bound_is_taken(demo: RunningServer, parameter: str, value: Any) -> None:
    body = {"messages": [user("hi")], "max_tokens": 4, parameter: value}
    response = demo.post(body)
    assert response.status_code == 200, response.text
    assert_well(demo)


def test_a_temperature_close_to_nothing_is_greedy(demo: RunningServer) -> None:
    assert demo.text("hi", temperature=1e-30, max_tokens=16) == demo.text("hi", max_tokens=16)


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("tools", [TOOL]),
        ("tool_choice", "auto"),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "look"}}),
    ],
    ids=repr,
)
def test_what_the_model_cannot_do_is_not_supported(
    demo: RunningServer, parameter: str, value: Any
) -> None:
    response = demo.ask("hi", **{parameter: value})
    assert_error(response, 422, "parameter_not_supported", parameter)
    assert_well(demo)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "tool_call_id": "1", "content": "42"},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]},
        {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "data:,"}}]},
        {"role": "user", "content": [image_part(PNG), image_part(PNG)]},
        {"role": "user", "content": [image_part(PNG), user("hi") | {"type": "text"}] * 2},
    ],
    ids=["tool-role", "tool-calls", "audio", "audio-url", "two", "two-of-four"],
)
def test_a_message_the_model_cannot_take_is_not_supported(
    demo: RunningServer, message: dict[str, Any]
) -> None:
    if isinstance(message.get("content"), list):
        for part in message["content"]:
            if part["type"] == "text":
                part["text"] = "hi"
    body = assert_error(demo.post({"messages": [message]}), 422, "parameter_not_supported")
    assert body["detail"][0]["loc"][:3] == ["body", "messages", "0"]
    assert_well(demo)


def test_no_image_url_is_fetched(demo: RunningServer) -> None:
    """Not even a connection is made."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        port = listener.getsockname()[1]
        for at in (
            "http://127.0.0.1",
            "https://127.0.0.1",
            "HTTPS://127.0.0.1",
            "http://localhost",
        ):
            url = f"{at}:{port}/x.png"
            part = {"type": "image_url", "image_url": {"url": url}}
            loc = "messages.0.content.0.image_url.url"
            error = assert_error(demo.ask([part]), 422, "image_url_not_allowed", loc)
            assert "--allow-image-urls" in error["message"]
            # Nor is text scanned for them.
            assert demo.ask(f"![picture]({url})", max_tokens=1).status_code == 200
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    "content",
    [
        rb'"\ud800"',
        rb'"a\udfffb"',
        rb'"\udc00\ud800"',
        rb'[{"type": "text", "text": "\ud83d"}]',
    ],
    ids=repr,
)
def test_half_a_surrogate_pair_in_text_is_the_callers_fault(
    demo: RunningServer, content: bytes
) -> None:
    response = demo.post_bytes(b'{"messages": [{"role": "user", "content": %s}]}' % content)
    assert response.status_code in (400, 422)
    assert_error(response, response.status_code)
    assert_well(demo)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"messages": [{"role": "user", "content": "hi"}], "stop": ["\ud800"], "max_tokens": 2}',
        rb'{"messages": [{"role": "user", "content": "hi"}], "model": "\ud800", "max_tokens": 2}',
        rb'{"messages": [{"role": "\ud800", "content": "hi"}]}',
        rb'{"messages": [{"role": "user", "content": "hi"}], "\ud800": 1}',
        rb'{"messages": [{"role": "user", "content": [{"type": "\ud800"}]}]}',
        rb'{"messages": [{"role": "user", "content": "hi"}], "response_format": "\ud800"}',
    ],
    ids=repr,
)
def test_half_a_surrogate_pair_anywhere_is_no_server_error(
    demo: RunningServer, body: bytes
) -> None:
    response = demo.post_bytes(body)
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert_error(response, response.status_code)
    assert_well(demo)


def test_a_real_surrogate_pair_is_a_character(demo: RunningServer) -> None:
    body = rb'{"messages": [{"role": "user", "content": "\ud83d\ude00"}], "max_tokens": 1}'
    assert demo.post_bytes(body).status_code == 200


@pytest.mark.parametrize("body_text", ["temperature", "role", "unknown", "image"])
def test_long_inputs_are_not_repeated(demo: RunningServer, body_text: str) -> None:
    secret = "canary" * 500
    body: dict[str, Any] = {"messages": [user("hi")]}
    body |= {
        "temperature": {"temperature": secret},
        "role": {"messages": [{"role": secret, "content": "hi"}]},
        "unknown": {secret: 1},
        "image": {"messages": [{"role": "user", "content": [_broken_image(secret)]}]},
    }[body_text]
    response = demo.post(body)
    assert_error(response, response.status_code)
    assert "canarycanary" * 20 not in response.text
    assert secret not in demo.log
    assert_well(demo)


def _broken_image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{url}"}}


def test_neither_prompt_nor_picture_is_in_an_error_or_the_log(demo: RunningServer) -> None:
    prompt = "canary in a coal mine"
    url = data_url(plain_png(90, 90)[:-60])
    part = {"type": "image_url", "image_url": {"url": url}}
    response = demo.ask([{"type": "text", "text": prompt}, part])
    assert_error(response, 422, "invalid_parameter", "messages.0.content.1.image_url.url")
    assert prompt not in response.text
    assert url[40:80] not in response.text
    assert prompt not in demo.log
    assert url[40:80] not in demo.log


def test_a_body_at_the_limit_is_read_and_one_byte_more_is_a_413(small: RunningServer) -> None:
    around = len(json.dumps({"messages": [user("")]}))

    def body_of(size: int) -> bytes:
        return json.dumps({"messages": [user("x" * (size - around))]}).encode()

    assert len(body_of(1 << 20)) == 1 << 20
    assert_error(small.post_bytes(body_of(1 << 20)), 400, "context_length_exceeded")
    for size in ((1 << 20) + 1, 3 << 20):
        assert_error(small.post_bytes(body_of(size)), 413, "body_too_large")
    assert_well(small)


def test_a_body_of_unknown_length_is_cut_at_the_limit_too(small: RunningServer) -> None:
    def pieces() -> Any:
        yield b'{"messages": "'
        for _ in range(40):
            yield b"x" * (1 << 16)

    with small.client() as client:
        response = client.post(
            "/chat/completions",
            content=pieces(),
            headers={"Content-Type": "application/json"},
        )
    assert_error(response, 413, "body_too_large")
    assert_well(small)


@contextmanager
def peak_memory(server: RunningServer, max_bytes: int) -> Iterator[None]:
    """The server's memory must not grow by more meanwhile, not even for a moment."""
    folder = Path(f"/proc/{server.process.pid}")
    try:
        (folder / "clear_refs").write_text("5")  # the peak is counted from here on
    except OSError:
        pytest.skip("this system does not tell a process's peak of memory")
    before = server.resources.memory_info().rss
    yield
    peak = re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
    assert peak
    assert int(peak[1]) * 1024 - before < max_bytes


VALUES = {
    "objects": b"{}",
    "lists": b"[]",
    "numbers": b"1",
    "nested": b'{"a":[1]}',
    "messages": b'{"role":"user"}',
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_large_body_of_tiny_values_costs_no_more_than_a_picture(
    demo: RunningServer, kind: str
) -> None:
    """Ten million empty lists are a gigabyte, and seconds in which nobody else is answered."""
    value = VALUES[kind]
    around = b'{"messages": [%s]}'
    number = ((32 << 20) - len(around)) // (len(value) + 1)
    content = around % b",".join([value] * number)
    with peak_memory(demo, 4 * len(content)):
        error = assert_error(demo.post_bytes(content), 413, "body_too_large")
    assert "1048576 values" in error["message"]
    assert_well(demo)


def test_as_many_values_as_are_read_cost_little(demo: RunningServer) -> None:
    content = b'{"messages": [%s]}' % b",".join([b"[]"] * 520_000)
    with peak_memory(demo, 160 << 20):
        assert_error(demo.post_bytes(content), 422, "invalid_parameter")
    assert_well(demo)


def test_a_large_body_costs_a_few_times_its_size(demo: RunningServer) -> None:
    """As its pieces, as bytes and as text."""
    content = json.dumps({"messages": [user("x" * (30 << 20))]}).encode()
    with peak_memory(demo, 4 * len(content)):
        assert_error(demo.post_bytes(content), 413, "body_too_large")
    assert_well(demo)


def test_a_body_shorter_than_its_stated_length_is_forgotten(demo: RunningServer) -> None:
    """Its sender hangs up before the rest."""
    for stated in (b"100000", b"40000000"):
        sent = POST + b"Content-Length: %s\r\n\r\n" % stated + b'{"messages": []}'
        received = exchange(demo, sent, half_close=True)
        assert received == b"" or received.startswith(b"HTTP/1.1 4")
    assert_well(demo)


def test_what_follows_the_stated_length_is_no_part_of_the_body(demo: RunningServer) -> None:
    """It is taken for the next request, and is none: the server hangs up on it, maybe with a reset
    that takes the first answer along."""
    body = json.dumps({"messages": [user("hi")], "max_tokens": 1}).encode()
    sent = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"}" * 50
    received = exchange(demo, sent, half_close=True)
    assert received == b"" or received.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4"))
    assert b"HTTP/1.1 5" not in received
    assert_well(demo)


@pytest.mark.parametrize(("piece", "length"), [(1, 300), (1, 50_000), (7, 300)])
def test_a_body_in_tiny_pieces_is_read(demo: RunningServer, piece: int, length: int) -> None:
    body = json.dumps(
        {"messages": [user("hi" * 300)], "max_tokens": 1, "model": "m" * length}
    ).encode()
    pieces = (body[at : at + piece] for at in range(0, len(body), piece))
    with demo.client() as client:
        response = client.post(
            "/chat/completions", content=pieces, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 200
    assert_well(demo)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03" + bytes(range(200)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(range(256)) * 8,
        b"GET /info HTTP/1.1\r\nno colon here\r\n\r\n",
        b"POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: banana\r\n\r\n",
        b"POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["tls", "http2", "bytes", "header", "length", "smuggling"],
)
def test_what_is_not_http_is_hung_up_on(demo: RunningServer, sent: bytes) -> None:
    received = exchange(demo, sent, half_close=True)
    assert received.startswith(b"HTTP/1.1 4") or received == b""
    head, _, body = received.partition(b"\r\n\r\n")
    if body:
        assert b"x-ms-error-code: " in head
        assert b"x-request-id: " in head
        answer, _ = json.JSONDecoder().raw_decode(body.decode())
        assert f"x-ms-error-code: {answer['code']}" in head.decode()
    assert_well(demo)


def test_a_client_that_leaves_amid_its_body_is_forgotten(demo: RunningServer) -> None:
    head = (
        b"POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    )
    exchange(demo, head + b"Content-Length: 1000\r\n\r\n" + b'{"messages": [', hang_up=True)
    assert_well(demo)


def test_each_request_is_one_line_in_the_log_and_probes_are_none(demo: RunningServer) -> None:
    with demo.client() as client:
        client.post(
            "/chat/completions?canary=1",
            json={"messages": [user("hi")], "max_tokens": 1},
            headers={"x-ms-client-request-id": "log-me"},
        )
        client.get("/nothing%0a2026-01-01 forged", headers={"x-ms-client-request-id": "log-me-too"})
        client.get("/health/live", headers={"x-ms-client-request-id": "not-me"})
    (line,) = [line for line in demo.log.splitlines() if '"log-me"' in line]
    assert json.loads(line)["message"] == "POST /chat/completions"
    assert json.loads(line)["status"] == 200
    (line,) = [line for line in demo.log.splitlines() if '"log-me-too"' in line]
    assert json.loads(line)["status"] == 404
    assert "not-me" not in demo.log
    assert "canary=1" not in demo.log


def test_a_log_line_cannot_be_forged(demo: RunningServer) -> None:
    forged = '\n{"level": "error", "message": "forged"}'
    body = {"messages": [user("hi")], "max_tokens": 1, "model": forged, "user": forged}
    assert demo.post(body, extra_parameters="drop").status_code == 200
    assert_error(demo.post(body), 400, "unknown_parameter")
    for deployment in ("%0a%7bforged%7d", "%7b%22level%22:%22forged%22%7d%0d%0a"):
        demo.request("POST", f"/openai/deployments/{deployment}/chat/completions", json=body)
    entries = [json.loads(line) for line in demo.log.splitlines() if line.startswith("{")]
    assert "forged" not in {entry["message"] for entry in entries}
    assert "error" not in {entry["level"] for entry in entries}
    assert not [line for line in demo.log.splitlines() if "forged" in line[:20]]
    assert_well(demo)


def test_a_running_stream_does_not_notice_what_others_send(demo: RunningServer) -> None:
    solo = demo.text("golden", max_tokens=300)
    bad = [
        b"{",
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 3}',
        b'{"messages": [{"role": "user", "content": "%s"}]}' % (b"x" * 20_000),
        json.dumps({"messages": [{"role": "user", "content": [image_part(PNG[:40])]}]}).encode(),
    ]
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(stream, demo, "golden", max_tokens=300)
        while not running.done():
            for content in bad:
                assert demo.post_bytes(content).status_code in (400, 422)
        assert running.result().text == solo
    assert_well(demo)


# Any JSON at all where the API expects something, with the API's own names among the keys.
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "system", "text", "image_url", "data:image/png;base64,AAAA", "1"])
)
_KEYS = st.sampled_from(
    ["role", "content", "type", "text", "image_url", "image", "url", "detail", "tool_calls"]
) | st.text(string.ascii_letters, max_size=4)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool"]) | _VALUES},
        optional={"content": st.text(max_size=8) | st.lists(_VALUES, max_size=2) | _VALUES},
    ),
    max_size=3,
)
_NAMES = st.sampled_from(
    [*PARAMETERS, "stop", "stream", "response_format", "tools", "tool_choice", "model", "logprobs"]
) | st.sampled_from(["top_logprobs", "n", "extra"])
_BODIES = st.builds(
    lambda messages, others: {"messages": messages, **others},
    _MESSAGES | _VALUES,
    st.dictionaries(_NAMES, _VALUES, max_size=3),
)


@settings(max_examples=150)
@given(body=_BODIES, mode=st.sampled_from(["error", "drop", "pass-through"]))
def test_no_body_makes_the_server_fail(parrot: RunningServer, body: Any, mode: str) -> None:
    """The parrot answers what is fine at once, so whatever comes back comes soon."""
    content = json.dumps(body).encode()
    with parrot.client(headers={"extra-parameters": mode}) as client:
        response: httpx.Response = client.post(
            "/chat/completions", content=content, headers={"Content-Type": "application/json"}
        )
    if response.status_code != 200:
        assert response.status_code in (400, 422), response.text
        assert_error(response, response.status_code)


def test_the_server_is_well_after_all_those_bodies(parrot: RunningServer) -> None:
    assert_well(parrot)
