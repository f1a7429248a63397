"""What goes over the socket comes out as it went in, and nothing else gets through."""

from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring import errors
from scoring.engine_config import EngineConfig, EngineDescription, EngineLimits, EngineStats
from scoring.engine_link import (
    Abort,
    Ended,
    Outputs,
    Progress,
    Ready,
    Refused,
    Stop,
    to_error,
    to_refused,
)
from scoring.grammar import Grammar
from scoring.image_processor import HDPicture
from scoring.sequence import (
    FinishReason,
    ImageSpan,
    Logprobs,
    SamplingParams,
    Sequence,
    TokenOutput,
)
from scoring.wire import (
    Add,
    Start,
    WireError,
    decode_call,
    decode_message,
    encode_call,
    encode_message,
)

PARAMS = SamplingParams(
    max_tokens=7,
    temperature=0.5,
    top_p=0.9,
    presence_penalty=-1.5,
    seed=-(2**63),
    stop_token_ids=frozenset({3, 4}),
    logprobs=5,
)


def pictures() -> list[HDPicture]:
    random = np.random.default_rng(1)
    shapes = [(4, 6, 3), (2, 2, 3)]
    return [
        HDPicture(random.integers(0, 256, shape, dtype=np.uint8), b"digest\xff", 5)
        for shape in shapes
    ]


def a_sequence() -> Sequence:
    first, second = pictures()
    return Sequence(
        "an id",
        [1, *[-1] * 5, 32063, *[-2] * 5],
        PARAMS,
        (ImageSpan(first, 1), ImageSpan(second, 7)),
        salt=b"\x00\xff",
        deadline=1.5,
        queue_deadline=0.5,
        grammar=Grammar('{"ü": 1}'),
    )


def frames_of(call: Start | Sequence | Abort | Stop) -> list[bytes]:
    """The frames as they would arrive."""
    return [bytes(memoryview(frame).cast("B")) for frame in encode_call(call)]


def test_a_sequence_arrives_whole():
    sent = a_sequence()

    arrived = decode_call(frames_of(sent))

    assert isinstance(arrived, Sequence)
    assert vars(arrived) | {"images": ()} == vars(sent) | {"images": ()}
    for span, original in zip(arrived.images, sent.images, strict=True):
        np.testing.assert_array_equal(span.picture.pixels, original.picture.pixels, strict=True)
        assert (span.start, span.picture.digest, span.picture.num_tokens) == (
            original.start, original.picture.digest, original.picture.num_tokens,
        )  # fmt: skip


def test_no_field_of_a_sequence_is_forgotten():
    """A field that is added to Sequence, and not to the wire, would be lost without a word."""
    given_fields = {field.name for field in fields(Sequence) if field.init}

    assert given_fields - {"images", "token_mask"} == set(Add.__struct_fields__) - {"pictures"}
    assert {field.name for field in fields(HDPicture)} == {"pixels", "digest", "num_tokens"}


def test_parameters_that_have_been_used_still_travel():
    """They keep what they have worked out beside their fields."""
    params = SamplingParams(max_tokens=3, stop_token_ids=frozenset({1}))
    assert params.end_array.tolist() == [1]

    arrived = decode_call(frames_of(Sequence("a", [1], params)))

    assert arrived.params == params


def test_pixels_are_neither_packed_nor_copied():
    first, _ = pictures()
    sequence = Sequence("a", [-1] * 5, PARAMS, (ImageSpan(first, 0),))

    header, frame = encode_call(sequence)
    assert frame is first.pixels
    buffer = bytearray(frame.tobytes())
    arrived = decode_call([header, memoryview(buffer)])

    assert np.shares_memory(arrived.images[0].picture.pixels, np.frombuffer(buffer, np.uint8))


@pytest.mark.parametrize(
    "call",
    [
        Abort("an id"),
        Stop(),
        Start(EngineConfig(Path("/somewhere/ü"), max_model_len=5), "a.module:name", 10, "json"),
    ],
    ids=lambda call: type(call).__name__,
)
def test_other_calls_arrive_as_they_were(call):
    assert decode_call(frames_of(call)) == call


STATS = EngineStats(1, 2, 3, 4, 5, 6, 7, 8)
OUTPUTS = [
    TokenOutput("a", 5),
    TokenOutput("b", None, FinishReason.ERROR, error="it failed"),
    TokenOutput("c", 6, FinishReason.STOP, Logprobs(-0.5, ((6, -0.5), (7, -1.25))), num_cached=16),
]


@pytest.mark.parametrize(
    "message",
    [
        Progress(1, 2**40),
        Ready(EngineLimits(10, 20), STATS, EngineDescription("cpu", "float32", "sdpa")),
        Ready(EngineLimits(10, 20), STATS, None),
        Refused("a", "InvalidSequenceError", "why"),
        Outputs(OUTPUTS, STATS),
        Ended(None),
        Ended("why"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_arrive_as_they_were(message):
    assert decode_message(encode_message(message)) == message


def scoring_errors() -> list[errors.ScoringError]:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    made = [errors.ContextLengthError(5, 4)]
    return made + [kind("why") for kind in kinds if kind is not errors.ContextLengthError]


@pytest.mark.parametrize("error", scoring_errors(), ids=lambda error: type(error).__name__)
def test_a_refusal_is_raised_as_the_error_it_was(error):
    refused = to_refused("a", error)
    arrived = to_error(decode_message(encode_message(refused)))

    assert type(arrived) is type(error)
    assert str(arrived) == str(error)


def test_what_does_not_travel_is_refused_on_this_side():
    class Mask:
        def accept(self, token_id): ...

        def fill(self, bitmask, row): ...

    with pytest.raises(WireError, match="token mask"):
        encode_call(Sequence("a", [1], PARAMS, token_mask=Mask()))
    with pytest.raises(WireError, match="64 bits"):
        encode_call(Sequence("a", [2**64], PARAMS))


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: frames[:2],
        lambda frames: [*frames, b"one more"],
        lambda frames: [frames[0], frames[1], frames[2] + b"x"],
        lambda frames: [frames[0], b"", frames[2]],
        lambda frames: [frames[0], frames[2], frames[1]],
        lambda frames: [with_value(frames[0], "max_tokens", "many"), *frames[1:]],
        lambda frames: [with_value(frames[0], "shape", [-1, 6, 3]), *frames[1:]],
    ],
)
def test_a_sequence_that_cannot_be_read_is_known_by_its_id(change):
    """So that whoever waits for it can be told."""
    frames = change(frames_of(a_sequence()))

    with pytest.raises(WireError) as caught:
        decode_call(frames)
    assert caught.value.sequence_id == "an id"


def with_value(frame: bytes, name: str, value: object) -> bytes:
    """The frame with another value wherever the name stands."""

    def changed(node: object) -> object:
        if isinstance(node, dict):
            return {key: value if key == name else changed(item) for key, item in node.items()}
        return [changed(item) for item in node] if isinstance(node, list) else node

    return msgspec.msgpack.encode(changed(msgspec.msgpack.decode(frame)))


GARBAGE = [[], [b""], [b"\xc1"], [b"\x91" * 100_000], [b"\xa2\xff\xfe"], [b"\x82\xa4type\xa3add"]]


@pytest.mark.parametrize("frames", GARBAGE)
def test_garbage_is_an_error_and_nothing_worse(frames):
    with pytest.raises(WireError):
        decode_call(frames)
    with pytest.raises(WireError):
        decode_message(frames[0] if frames else b"")


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_bytes_are_a_call_or_an_error(frames):
    try:
        decode_call(frames)
        decode_message(frames[0])
    except WireError:
        pass


@given(st.data())
def test_a_damaged_sequence_is_a_sequence_or_an_error(data):
    frames = frames_of(a_sequence())
    head = bytearray(frames[0])
    for _ in range(data.draw(st.integers(1, 4))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrived = decode_call([bytes(head), *frames[1:]])
    except WireError:
        return
    assert isinstance(arrived, Sequence)
