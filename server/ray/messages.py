"""What an ingress and an engine's replica say to each other, and what carries it: msgpack.

A request goes over as one call that lasts as long as it runs. Its tokens do not come back by that
call but by the ingress's one stream from the replica, a batch per step for all its requests.
"""

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from scoring.engine_client import EngineState
from scoring.engine_config import EngineDescription, EngineLimits, EngineStats
from scoring.engine_link import Refused
from scoring.router import PromptKey
from scoring.sequence import Sequence, TokenOutput
from scoring.wire import decode_call, encode_call

REPORT = "report"
"""The key of a replica's routing statistics that holds its Report."""


@dataclass(frozen=True)
class Ticket:
    """What a request is routed by. It goes over to the replica, too."""

    sequence_id: str
    prompt: PromptKey


@dataclass(frozen=True)
class Order:
    """A sequence as it travels. frames: see scoring.wire. sent: on the sender's monotonic clock.
    traceparent: of the request's span, in W3C's format."""

    ingress: str
    frames: list[Any]
    sent: float
    traceparent: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """All that came of a step for one ingress. sent: on the replica's monotonic clock. numbers: of
    each output within its sequence, from 0. errors: the last words of sequences that failed or were
    not let in."""

    sent: float
    outputs: list[TokenOutput]
    numbers: list[int]
    errors: list[Refused]


class Report(msgspec.Struct, frozen=True):
    """A replica's state, as routers hear it about once a second. num_tokens: of its open requests,
    prompts and outputs. chunks, pictures: names of what it was sent last, see scoring.router."""

    state: EngineState
    limits: EngineLimits | None
    stats: EngineStats | None
    description: EngineDescription | None
    step_age_s: float
    num_requests: int
    num_tokens: int
    chunks: list[bytes]
    pictures: list[bytes]


def to_order(sequence: Sequence, ingress: str, now: float, traceparent: str | None = None) -> Order:
    """now: on time.monotonic's clock. Raises scoring.wire.WireError for what does not travel."""
    return Order(ingress, encode_call(sequence), now, traceparent)


def to_sequence(order: Order, now: float) -> Sequence:
    """Its deadlines are on this machine's clock, now on it too. Raises WireError."""
    sequence = decode_call([memoryview(frame) for frame in order.frames])
    if not isinstance(sequence, Sequence):
        raise TypeError(f"an order holds a {type(sequence).__name__}")
    shift = now - order.sent
    if sequence.deadline is not None:
        sequence.deadline += shift
    if sequence.queue_deadline is not None:
        sequence.queue_deadline += shift
    return sequence


def encode(message: Batch | Report) -> bytes:
    return _encoder.encode(message)


def decode_batch(data: bytes, now: float) -> Batch:
    """Its outputs' times are on this machine's clock, now on it too."""
    batch = _batches.decode(data)
    shift = now - batch.sent
    outputs = [_shifted(output, shift) for output in batch.outputs]
    return Batch(now, outputs, batch.numbers, batch.errors)


def decode_report(data: bytes) -> Report:
    return _reports.decode(data)


def _shifted(output: TokenOutput, shift: float) -> TokenOutput:
    if output.begun is None and output.encoded is None:
        return output
    begun, encoded = (
        None if moment is None else moment + shift for moment in (output.begun, output.encoded)
    )
    return replace(output, begun=begun, encoded=encoded)


_encoder = msgspec.msgpack.Encoder()
_batches = msgspec.msgpack.Decoder(Batch)
_reports = msgspec.msgpack.Decoder(Report)
