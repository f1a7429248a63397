"""Stop strings: the answer ends exactly before the first of them, streamed or not."""

import pytest

from .event_streams import stream
from .parrot import ParrotServer
from .running_server import Endpoint, RunningServer, assert_well

TEXT = "The quick brown fox jumps over the lazy dog"


def assert_answer(
    server: Endpoint, prompt: str, stop: str | list[str], text: str, **parameters: int
) -> None:
    """Both ways of answering give this text, and no piece of a stream shows more."""
    whole = server.ask(prompt, stop=stop, **parameters).json()["choices"][0]
    streamed = stream(server, prompt, stop=stop, **parameters)
    assert whole["message"]["content"] == streamed.text == text
    assert whole["finish_reason"] == streamed.finish_reason


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        pytest.param(["quick"], "The ", id="a word, over five tokens"),
        pytest.param("quick", "The ", id="a bare string"),
        pytest.param([" "], "The", id="one character"),
        pytest.param(["T"], "", id="the first character"),
        pytest.param([TEXT], "", id="the whole answer"),
        pytest.param(["dog"], TEXT[:-3], id="the end"),
        pytest.param(["lazy", "fox", "over"], "The quick brown ", id="the first of several"),
        pytest.param(["own fox", "brown"], "The quick ", id="the one that begins first"),
        pytest.param(["fox jumps", "jumps over"], "The quick brown ", id="overlapping"),
        pytest.param(["x", "ox", "fox"], "The quick brown ", id="several at once"),
        pytest.param(["oo", "uu"], TEXT, id="none that comes"),
        pytest.param(["doggy", "dogs"], TEXT, id="more than the end"),
        pytest.param([], TEXT, id="none"),
        pytest.param(["fox"] + ["never"] * 15, "The quick brown ", id="sixteen"),
    ],
)
def test_an_answer_ends_before_its_stop_string(
    parrot: ParrotServer, stop: str | list[str], text: str
) -> None:
    assert_answer(parrot, TEXT, stop, text)
    streamed = stream(parrot, TEXT, stop=stop)
    assert streamed.finish_reason == "stop"
    assert_well(parrot)


def test_a_stop_string_that_began_and_did_not_go_on_is_text(parrot: ParrotServer) -> None:
    assert_answer(parrot, "aaab aab ab", ["aac", "b ac"], "aaab aab ab")
    assert_answer(parrot, "aaab aab ab", ["b aab"], "aaa")


def test_a_stop_string_of_many_bytes_is_found(parrot: ParrotServer) -> None:
    assert_answer(parrot, "Größe 😀 日本語!", ["日本"], "Größe 😀 ")
    assert_answer(parrot, "Größe 😀 日本語!", ["😀"], "Größe ")


def test_the_text_of_a_control_token_can_be_a_stop_string(parrot: ParrotServer) -> None:
    """The documentation's example stops at <|endoftext|>, which the model says as one token."""
    assert_answer(parrot, TEXT, ["<|endoftext|>"], TEXT)
    assert_answer(parrot, "a<|endoftext|>b", ["<|endoftext|>"], "a")


def test_a_stopped_answer_computes_no_further(parrot: ParrotServer) -> None:
    usage = parrot.ask("abc" + "x" * 400, stop=["c"]).json()["usage"]
    assert usage["completion_tokens"] == 3
    assert_well(parrot)


def test_max_tokens_before_a_stop_string_still_ends_with_length(parrot: ParrotServer) -> None:
    """What was held back as the beginning of a stop string is given out at the end."""
    streamed = stream(parrot, TEXT, stop=["quick"], max_tokens=6)
    assert (streamed.text, streamed.finish_reason) == ("The qu", "length")
    assert_answer(parrot, TEXT, ["quick"], "The qu", max_tokens=6)


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_any_piece_of_a_real_answer_stops_it_there(
    name: str, request: pytest.FixtureRequest
) -> None:
    server: RunningServer = request.getfixturevalue(name)
    prompt, num_tokens = "Why is the sky blue?", 40
    answer = server.text(prompt, max_tokens=num_tokens)
    assert len(answer) >= 20
    for start in range(0, len(answer) - 3, max(1, len(answer) // 10)):
        # Odd lengths at odd places: most begin and end within a token or span several.
        stop = answer[start : start + 3 + start % 5]
        assert_answer(server, prompt, [stop], answer[: answer.index(stop)], max_tokens=num_tokens)
    assert_well(server)
