"""One request's figures, and every way in which a request can fail, over real sockets."""

import json
import socket
import ssl

import pytest
import trustme

from .asking import ask
from .scripted_server import (
    END,
    HANG_UP,
    HEAD,
    answer,
    chunk,
    done,
    event,
    scripted_server,
    whole,
)


def test_times_are_those_of_the_tokens():
    """The first after 100 ms, then one every 50 ms. A slow machine is later, never sooner."""
    with scripted_server(lambda body: answer(5, gap_s=0.05, first_s=0.1)) as server:
        (found,) = ask(server.url)

    assert found.error is None
    assert (found.text, found.num_tokens) == ("t0 t1 t2 t3 t4 ", 5)
    assert found.ttft_s > 0.09
    assert len(found.gaps_s) == 4
    assert sum(found.gaps_s) > 0.19
    assert found.tpot_s == pytest.approx(sum(found.gaps_s) / 4)
    assert found.e2e_s >= found.ttft_s + sum(found.gaps_s)


def test_the_first_token_is_the_first_that_has_text():
    """Not the role's empty delta before it."""
    script = [HEAD, event("", model="m"), 0.15, event("a"), done(1)]
    with scripted_server(lambda body: script) as server:
        (found,) = ask(server.url)

    assert found.ttft_s > 0.14
    assert (found.model, found.tpot_s) == ("m", None)


def test_the_usage_of_the_stream_counts_the_tokens():
    """Twelve tokens in two deltas; the usage also names the prompt's."""
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 20},
    }
    own_chunk = chunk(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
    script = [HEAD, event("a b"), event("c", finish_reason="stop"), own_chunk, done()]
    with scripted_server(lambda body: script) as server:
        (found,) = ask(server.url)

    assert (found.num_tokens, found.num_prompt_tokens, found.num_cached_tokens) == (12, 30, 20)
    assert found.has_usage


@pytest.mark.parametrize(("reason", "num_tokens"), [("stop", 2), ("length", 8)])
def test_without_usage_deltas_are_counted_or_what_was_asked_for(reason, num_tokens):
    script = [HEAD, event("a"), event("b"), done(finish_reason=reason)]
    with scripted_server(lambda body: script) as server:
        (found,) = ask(server.url, max_tokens=8)

    assert (found.error, found.num_tokens, found.has_usage) == (None, num_tokens, False)


def test_a_stream_is_read_alike_byte_by_byte():
    """The answer's bytes one by one, each in a packet of its own."""
    stream = b"".join(step for step in answer(3) if isinstance(step, bytes))
    single = [step for byte in stream for step in (bytes([byte]), 0.0)]
    with scripted_server(lambda body: single) as server:
        (found,) = ask(server.url)

    assert (found.error, found.text, found.num_tokens) == (None, "t0 t1 t2 ", 3)


def test_one_connection_serves_many_requests():
    with scripted_server(lambda body: answer(1)) as server:
        answers = ask(server.url, times=5)

    assert [found.error for found in answers] == [None] * 5
    assert (len(server.bodies), server.num_connections) == (5, 1)


def test_a_connection_that_the_server_closed_meanwhile_is_no_error():
    """As servers do after some idle seconds: what was sent on it is asked again on a new one."""
    with scripted_server(lambda body: [*answer(1), HANG_UP]) as server:
        answers = ask(server.url, times=3)

    assert [found.error for found in answers] == [None] * 3
    assert server.num_connections == 3


FAILURES = {
    "status 429": whole("429 Too Many Requests", b'{"error": "busy"}', "Retry-After: 1"),
    "status 500": whole("500 Internal Server Error", b"oops"),
    "status 302": whole("302 Found", b"", "Location: /elsewhere"),
    "hung up before the answer": [HANG_UP],
    "hung up in the stream": [HEAD, event("a"), HANG_UP],
    "error in the stream": [
        HEAD,
        event("a"),
        chunk(b'data: {"choices": [], "error": {"message": "the engine died"}}\n\n'),
        HANG_UP,
    ],
    "stream without an end": [HEAD, event("a"), END],
    "answer without text": [HEAD, done(1)],
    "answer that is no chat's": [HEAD, chunk(b"data: {]\n\n"), END],
    "timeout": [HEAD, event("a"), 30.0],
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_counted_under_its_kind_and_the_next_request_is_well(kind):
    scripts = [FAILURES[kind], answer(1)]
    with scripted_server(lambda body: scripts.pop(0) if scripts else answer(1)) as server:
        failed, following = ask(server.url, times=2, timeout_s=1.0)

    assert (failed.error, following.error) == (kind, None)
    assert failed.end > failed.start


def test_an_errors_detail_is_what_the_server_said():
    with scripted_server(lambda body: FAILURES["status 429"]) as server:
        (found,) = ask(server.url)

    assert found.detail == '{"error": "busy"}'


def test_nobody_listening_is_no_connection():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (found,) = ask(f"http://127.0.0.1:{port}")

    assert found.error == "no connection"


def test_https_is_spoken_and_certificates_are_checked(tmp_path, monkeypatch):
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with scripted_server(lambda body: answer(3), context) as server:
        (distrusted,) = ask(server.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        (trusted,) = ask(server.url)

    assert distrusted.error == "no connection"
    assert "CERTIFICATE_VERIFY_FAILED" in distrusted.detail
    assert (trusted.error, trusted.num_tokens) == (None, 3)
