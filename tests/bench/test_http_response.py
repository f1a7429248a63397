"""HTTP/1.1 responses are read alike however the network cuts them."""

import pytest

from benchmark.load.http_response import HttpResponse

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;x=y\r\n \r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\nhello 0123456789"
UNSIZED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello 0123456789"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SIZED
BODY = b"hello 0123456789"


@pytest.mark.parametrize("stream", [CHUNKED, SIZED, UNSIZED, EARLY], ids=repr)
def test_a_body_is_whole_wherever_the_response_is_cut(stream):
    for cut in range(len(stream)):
        response = HttpResponse()
        body = response.feed(stream[:cut])
        assert not response.is_complete
        assert body + response.feed(stream[cut:]) == BODY
        assert (response.status, response.is_complete) == (200, stream is not UNSIZED)
    response = HttpResponse()
    assert b"".join(response.feed(bytes([byte])) for byte in stream) == BODY


def test_a_connection_is_kept_unless_the_response_says_otherwise():
    for head, keeps in ((b"", True), (b"Connection: Close\r\n", False)):
        response = HttpResponse()
        response.feed(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n" + head + b"\r\n")
        assert (response.is_complete, response.keeps_alive) == (True, keeps)


@pytest.mark.parametrize(
    "stream",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 fine\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 2000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    ],
    ids=["ssh", "no status", "no size", "endless size", "-5", "-1", "endless head"],
)
def test_what_is_not_http_is_a_value_error(stream):
    with pytest.raises(ValueError):  # noqa: PT011 - int's own, too
        HttpResponse().feed(stream)
