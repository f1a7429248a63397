"""Calls and messages ↔ frames of bytes: msgpack, checked on arrival against the types' own fields.

A message is one frame. A call is one frame, and behind a Sequence's one frame for each picture:

    start     {config, build, log_level, log_format}
    add       {id, token_ids, params, …, pictures: [{start, shape, digest, num_tokens}, …]}
              pixels of picture 0, uint8 in C order        ← read where they lie, not copied
              pixels of picture 1 …
    abort     {sequence_id}
    stop      {}
"""

import math
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from .engine_config import EngineConfig
from .engine_link import Abort, Call, Message, Stop
from .grammar import Grammar
from .image_processor import HDPicture
from .logs import LogFormat
from .sequence import ImageSpan, SamplingParams, Sequence

Frame = bytes | memoryview
T = TypeVar("T")

ENGINE_ID = b"engine"
"""The engine's name on the socket, in zmq's sense."""


class WireError(ValueError):
    """Bytes that are no call or no message. sequence_id: of the sequence that they would be."""

    def __init__(self, message: str, sequence_id: str | None = None) -> None:
        super().__init__(message)
        self.sequence_id = sequence_id


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The first call to a new process: what to build, with the "module:name" of the function that
    does, and how to log."""

    config: EngineConfig
    build: str
    log_level: int
    log_format: LogFormat


class PictureHeader(msgspec.Struct, frozen=True):
    """A picture but for its pixels."""

    start: int
    shape: tuple[int, int, int]
    digest: bytes
    num_tokens: int


class Add(msgspec.Struct, frozen=True, tag="add"):
    """A Sequence but for its pixels. A grammar is text; a token_mask, which the engine makes of it,
    is an object and does not travel."""

    id: str
    token_ids: list[int]
    params: SamplingParams
    salt: bytes
    deadline: float | None
    queue_deadline: float | None
    grammar: Grammar | None
    pictures: list[PictureHeader]


def encode_call(call: Start | Call) -> list[Any]:
    """The frames of a call, each something with a buffer. The pixels' frames are the arrays
    themselves. Raises WireError for what does not travel."""
    frames: list[Any] = []
    if isinstance(call, Sequence):
        if call.token_mask is not None:
            raise WireError("a token mask cannot go to the engine's process")
        frames = [span.picture.pixels for span in call.images]
    try:
        return [_encoder.encode(_to_add(call) if isinstance(call, Sequence) else call), *frames]
    except OverflowError as error:
        raise WireError(f"a number needs more than 64 bits: {error}") from error


def decode_call(frames: Items[Frame]) -> Start | Call:
    """A Sequence's pictures are views of the frames. Raises WireError."""
    if not frames:
        raise WireError("a call without a frame")
    try:
        call = _decode(_calls, frames[0])
    except WireError as error:
        raise WireError(str(error), _sequence_id(frames[0])) from error
    if isinstance(call, Add):
        return _to_sequence(call, frames[1:])
    return call


def encode_message(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_message(frame: Frame) -> Message:
    """Raises WireError."""
    return _decode(_messages, frame)


def _to_add(sequence: Sequence) -> Add:
    return Add(
        id=sequence.id,
        token_ids=sequence.token_ids,
        params=sequence.params,
        salt=sequence.salt,
        deadline=sequence.deadline,
        queue_deadline=sequence.queue_deadline,
        grammar=sequence.grammar,
        pictures=[
            PictureHeader(
                span.start, span.picture.pixels.shape, span.picture.digest, span.picture.num_tokens
            )
            for span in sequence.images
        ],
    )


def _to_sequence(add: Add, frames: Items[Frame]) -> Sequence:
    if len(frames) != len(add.pictures):
        raise WireError(f"{len(add.pictures)} pictures, but pixels of {len(frames)}", add.id)
    spans = []
    for header, frame in zip(add.pictures, frames, strict=True):
        pixels = np.frombuffer(frame, dtype=np.uint8)
        if min(header.shape) < 1 or math.prod(header.shape) != pixels.size:
            raise WireError(f"{pixels.size} pixels are no picture of {header.shape}", add.id)
        picture = HDPicture(pixels.reshape(header.shape), header.digest, header.num_tokens)
        spans.append(ImageSpan(picture, header.start))
    return Sequence(
        add.id,
        add.token_ids,
        add.params,
        tuple(spans),
        salt=add.salt,
        deadline=add.deadline,
        queue_deadline=add.queue_deadline,
        grammar=add.grammar,
    )


def _sequence_id(frame: Frame) -> str | None:
    """Whose sequence this would be, if that much can be read."""
    try:
        return _decode(_ids, frame).id
    except WireError:
        return None


def _decode(decoder: msgspec.msgpack.Decoder[T], frame: Frame) -> T:
    try:
        return decoder.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(str(error)) from error


class _Id(msgspec.Struct):
    id: str
    type: Literal["add"]


def _to_plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not travel")


def _from_plain(kind: type[Any], value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise TypeError(f"{kind.__name__} does not travel")


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_plain)
_calls: msgspec.msgpack.Decoder[Start | Add | Abort | Stop] = msgspec.msgpack.Decoder(
    Start | Add | Abort | Stop, dec_hook=_from_plain
)
_ids = msgspec.msgpack.Decoder(_Id)
_messages: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
