"""What ingress and replica of a cluster send each other: each has a clock of its own."""

import numpy as np
import pytest

from scoring.engine_link import to_refused
from scoring.errors import EngineOverloadedError
from scoring.sequence import FinishReason, TokenOutput
from scoring.wire import WireError
from server.ray.messages import Batch, decode_batch, encode, to_order, to_sequence

from .scripted import make_picture, make_sequence


def test_a_sequence_arrives_with_its_pictures_and_as_much_time_as_it_had() -> None:
    sent = make_sequence(
        "one", [1, -1, -1, 2], pictures={1: make_picture("cat", 2)}, salt=b"tenant"
    )
    sent.deadline, sent.queue_deadline = 1600.0, 1060.0
    arrived = to_sequence(to_order(sent, "ingress", 1000.0), 5.0)
    assert (arrived.deadline, arrived.queue_deadline) == (605.0, 65.0)
    assert (arrived.id, arrived.token_ids, arrived.params) == (
        sent.id,
        sent.token_ids,
        sent.params,
    )
    assert arrived.salt == b"tenant"
    assert [span.start for span in arrived.images] == [1]
    assert arrived.images[0].picture.digest == b"cat"
    assert np.array_equal(arrived.images[0].picture.pixels, sent.images[0].picture.pixels)


def test_a_sequence_without_deadlines_has_none_there() -> None:
    arrived = to_sequence(to_order(make_sequence(), "ingress", 1000.0), 5.0)
    assert arrived.deadline is arrived.queue_deadline is None


def test_what_does_not_travel_is_refused_before_it_is_sent() -> None:
    sequence = make_sequence()
    sequence.token_ids[0] = 2**70
    with pytest.raises(WireError, match="64 bits"):
        to_order(sequence, "ingress", 0.0)


def test_times_of_outputs_are_on_the_readers_clock() -> None:
    first = TokenOutput("one", 7, begun=90.0, encoded=95.0)
    last = TokenOutput("one", 8, FinishReason.LENGTH)
    refused = to_refused("two", EngineOverloadedError("full"))
    batch = decode_batch(encode(Batch(100.0, [first, last], [0, 1], [refused])), 1000.0)
    assert (batch.outputs[0].begun, batch.outputs[0].encoded) == (990.0, 995.0)
    assert batch.outputs[1] == last
    assert batch.errors == [refused]
