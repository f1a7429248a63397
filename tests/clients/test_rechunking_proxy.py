"""The proxy that cuts answers: it does cut, and changes nothing else."""

import httpx

from ..http.event_streams import WELL_FORMED
from ..http.parrot import ParrotServer
from .conftest import KEY, POLYGLOT
from .rechunking_proxy import SIZE, rechunked


def ask(base_url: str, **parameters: bool) -> tuple[httpx.Response, list[bytes]]:
    """The answer's pieces, as the HTTP library hands them on."""
    body = {"messages": [{"role": "user", "content": POLYGLOT}], **parameters}
    with (
        httpx.Client(base_url=base_url, headers={"api-key": KEY}, verify=False) as client,
        client.stream("POST", "/chat/completions", json=body) as response,
    ):
        return response, list(response.iter_raw())


def test_a_stream_comes_in_pieces_of_seven_bytes(parrot: ParrotServer) -> None:
    with rechunked(parrot.base_url) as address:
        response, pieces = ask(address, stream=True)
    assert response.status_code == 200
    assert max(map(len, pieces)) == SIZE
    assert WELL_FORMED.fullmatch(b"".join(pieces))


def test_a_whole_answer_and_its_head_stay_as_they_are(parrot: ParrotServer) -> None:
    straight, (body,) = ask(parrot.base_url)
    with rechunked(parrot.base_url) as address:
        proxied, pieces = ask(address)
    assert set(proxied.headers) == set(straight.headers)
    # Two answers differ in their ids and times, of a fixed length.
    assert len(b"".join(pieces)) == len(body)
