"""Server-sent events are read alike however the network cuts them."""

import pytest

from benchmark.load.sse import EventDecoder

STREAM = (
    b": hello\n\ndata: one\n\nevent: x\nid: 4\ndata:two\ndata: lines\n\n"
    b"retry: 3\n\n\ndata: \xc3\xa9\n\n"
)
EVENTS = [b"one", b"two\nlines", b"\xc3\xa9"]


def decode(*pieces: bytes) -> list[bytes]:
    decoder = EventDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_events_are_whole_wherever_the_stream_is_cut(end):
    stream = STREAM.replace(b"\n", end)

    assert decode(stream) == EVENTS
    assert decode(*(bytes([byte]) for byte in stream)) == EVENTS
    for cut in range(len(stream)):
        assert decode(stream[:cut], stream[cut:]) == EVENTS
    for cut in range(len(stream) - 3):
        assert decode(stream[:cut], stream[cut : cut + 3], b"", stream[cut + 3 :]) == EVENTS


def test_an_event_is_given_at_its_own_end_not_at_the_next_ones():
    decoder = EventDecoder()

    assert decoder.feed(b"data: 1\r\n\r") == [b"1"]
    assert decoder.feed(b"\ndata: 2\r\n\r\n") == [b"2"]
    assert decoder.feed(b"data: 3\r\r") == [b"3"]


def test_an_unfinished_event_is_none():
    assert decode(b"data: 1\n\ndata: 2\n") == [b"1"]


def test_a_byte_order_mark_is_no_part_of_the_first_field():
    assert decode(b"\xef\xbb\xbfdata: 1\n\n") == [b"1"]
