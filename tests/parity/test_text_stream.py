"""Token ids → text as it becomes certain."""

import threading
from collections.abc import Iterable

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from scoring.text_stream import TokenTextStreamer

THE, AND, WORLD, DOT = 450, 322, 3186, 29889  # "▁The", "▁and", "▁world", "."
SPACE, NEWLINE, END, USER, UNUSED = 29871, 13, 32007, 32010, 32060
LITERAL = 30140  # "�"
LLAMA = [243, 162, 169, 156]  # 🦙 in bytes
JUNK, LATIN = 3 + 0xB0, 3 + 0xC3  # a byte that begins no character, one that begins an é, say


def deltas(
    tokenizer: PreTrainedTokenizerFast, token_ids: Iterable[int], stop: Iterable[str] = ()
) -> list[str]:
    """What comes out after each token, and at the end."""
    streamer = TokenTextStreamer(tokenizer, stop)
    texts = []
    for token_id in token_ids:
        streamer.put([token_id])
        texts.append(streamer.take())
    streamer.end()
    return [*texts, streamer.take()]


def decoded(tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> str:
    return tokenizer.backend_tokenizer.decode(token_ids, skip_special_tokens=True)


def encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def test_the_published_detokenizations_come_out_piece_by_piece(golden, tokenizer):
    for vector in golden.json("text_vectors")["detokenize"]:
        joined, certain = "", ""
        texts = deltas(tokenizer, vector["ids"])
        for text, prefix in zip(texts, vector["decoded_prefixes"], strict=False):
            joined += text
            # A prefix that ends in half a character is not certain yet.
            certain = certain if prefix.endswith("\ufffd") else prefix

            assert joined == certain
        assert "".join(texts) == vector["decoded"]


@given(st.text(max_size=40).filter(lambda text: "\ufffd" not in text))
@example("🦙 and 日本語")
@example("  two leading spaces")
@example("naïve\n\n\tcafé 👨‍👩‍👧")
def test_text_comes_out_whole_and_never_half_a_character(tokenizer, text):
    token_ids = encoded(tokenizer, text)

    texts = deltas(tokenizer, token_ids)

    assert "".join(texts) == decoded(tokenizer, token_ids)
    assert not [piece for piece in texts if "\ufffd" in piece]


def test_text_is_not_held_longer_than_it_must(tokenizer):
    """Every token of plain words gives its text at once."""
    assert deltas(tokenizer, [THE, WORLD, DOT]) == ["The", " world", ".", ""]
    assert deltas(tokenizer, [*LLAMA, AND]) == ["", "", "", "🦙", " and", ""]


def test_half_a_character_at_the_end_is_dropped(tokenizer):
    assert deltas(tokenizer, [THE, *LLAMA[:3]]) == ["The", "", "", "", ""]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 40])
@pytest.mark.parametrize("first", [[], [THE]], ids=["first", "after_text"])
def test_a_run_of_undecodable_bytes_takes_nothing_from_what_follows(tokenizer, first, length):
    """One replacement character per byte, as the whole decoded at once; then the words' spaces."""
    token_ids = [*first, *[JUNK] * length, AND, AND]

    assert "".join(deltas(tokenizer, token_ids)) == decoded(tokenizer, token_ids)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 40])
@pytest.mark.parametrize("special", [END, USER, UNUSED])
@pytest.mark.parametrize(
    "first",
    [[], [THE], [THE, SPACE], [THE, NEWLINE], [THE, JUNK, JUNK], LLAMA],
    ids=["first", "text", "space", "newline", "junk", "character"],
)
def test_a_run_of_special_tokens_takes_nothing_from_what_follows(tokenizer, first, special, length):
    token_ids = [*first, *[special] * length, AND, AND]

    assert "".join(deltas(tokenizer, token_ids)) == decoded(tokenizer, token_ids)


@pytest.mark.parametrize("num_special", [1, 3, 5, 7])
def test_special_tokens_among_undecodable_bytes_take_nothing_from_what_follows(
    tokenizer, num_special
):
    for run in ([JUNK] * 3 + [END] * num_special, [END] * num_special + [JUNK] * 3):
        token_ids = [THE, *run, AND, AND]

        assert "".join(deltas(tokenizer, token_ids)) == decoded(tokenizer, token_ids)


def test_a_special_token_inside_a_character_does_not_break_it(tokenizer):
    assert "".join(deltas(tokenizer, [THE, *LLAMA[:2], END, *LLAMA[2:], AND])) == "The🦙 and"


def test_a_control_token_that_is_not_special_is_text(tokenizer):
    """The vocabulary says so of `</s>`; as a stop token it never gets here."""
    assert "".join(deltas(tokenizer, [THE, 2, AND])) == decoded(tokenizer, [THE, 2, AND])


@pytest.mark.parametrize("num_junk", [1, 2, 7, 8, 9])
def test_a_character_that_came_out_stays_though_junk_follows_it(tokenizer, num_junk):
    """Decoded at once, a run of bytes is a character for each byte or for none; a stream that has
    given out the first character cannot take it back, and must not fail over it."""
    text = "".join(deltas(tokenizer, [THE, *LLAMA, *[JUNK] * num_junk, AND, WORLD]))

    assert text == "The🦙" + "\ufffd" * num_junk + " and world"


@given(
    st.lists(
        st.sampled_from([THE, AND, DOT, SPACE, END, USER, UNUSED, *LLAMA, JUNK, LATIN]), max_size=30
    )
)
@example([*LLAMA, JUNK, AND])
@example([THE, *[JUNK] * 3, *[END] * 5, AND])
def test_no_sequence_of_tokens_loses_a_word_or_a_space(tokenizer, token_ids):
    """Whatever became of the bytes among them, all of them above ASCII."""

    def ascii_part(text: str) -> str:
        return "".join(filter(str.isascii, text))

    text = "".join(deltas(tokenizer, token_ids))

    assert ascii_part(text) == ascii_part(decoded(tokenizer, token_ids))
    num_bytes = sum(131 <= token_id <= 258 for token_id in token_ids)
    assert text.count("\ufffd") <= num_bytes


@pytest.mark.parametrize(
    "token_ids",
    [[THE, LITERAL, AND], [THE, LITERAL, *LLAMA, AND], [THE, LITERAL], [LITERAL] * 20],
    ids=["word_after", "bytes_after", "last", "run"],
)
def test_a_replacement_character_that_the_model_says_is_text(tokenizer, token_ids):
    """The vocabulary has U+FFFD itself as a token: it is complete, and in its place."""
    assert "".join(deltas(tokenizer, token_ids)) == decoded(tokenizer, token_ids)


def test_a_stop_string_is_cut_exactly(tokenizer):
    token_ids = encoded(tokenizer, "one two three four")

    assert "".join(deltas(tokenizer, token_ids, [" three"])) == "one two"
    assert "".join(deltas(tokenizer, token_ids, ["wo thr"])) == "one t"
    assert "".join(deltas(tokenizer, token_ids, ["four", "two"])) == "one "
    assert "".join(deltas(tokenizer, token_ids, ["o", "one"])) == ""
    assert "".join(deltas(tokenizer, token_ids, ["five"])) == "one two three four"


def test_what_may_begin_a_stop_string_is_held_and_released_at_the_end(tokenizer):
    assert deltas(tokenizer, [THE, AND, WORLD], [" world peace"]) == ["The", " and", "", " world"]
    assert deltas(tokenizer, [THE, AND, WORLD, DOT], [" world peace"])[2:] == ["", " world.", ""]


def test_nothing_comes_after_a_stop_string(tokenizer):
    streamer = TokenTextStreamer(tokenizer, [" and"])
    streamer.put([THE])
    assert not streamer.stopped
    streamer.put([AND, WORLD])
    assert streamer.stopped
    streamer.put([WORLD])
    streamer.end()

    assert streamer.take() == "The"


def test_a_stop_string_may_be_a_character_of_several_tokens(tokenizer):
    texts = deltas(tokenizer, [THE, *LLAMA, AND], ["🦙"])

    assert "".join(texts) == "The"


STREAMS = st.lists(
    st.sampled_from(["a", "b", "ab", "ba", " a", "aab", "é", "🦙", "\n"]), max_size=25
).map("".join)
STOPS = st.text("ab é🦙", min_size=1, max_size=5)


@given(STREAMS, STOPS)
def test_any_text_is_cut_at_the_first_occurrence_of_any_stop_string(tokenizer, text, stop):
    texts = deltas(tokenizer, encoded(tokenizer, text), [stop])

    assert "".join(texts) == text.partition(stop)[0]


@given(STREAMS, st.lists(STOPS, min_size=1, max_size=4))
def test_of_several_stop_strings_the_first_to_be_complete_cuts(tokenizer, text, stops):
    """As a caller would who searches the whole text again after each token."""
    token_ids = encoded(tokenizer, text)
    seen, expected = "", None
    for piece in deltas(tokenizer, token_ids):
        seen += piece
        found = [seen.find(stop) for stop in stops if stop in seen]
        if found:
            expected = seen[: min(found)]
            break

    texts = deltas(tokenizer, token_ids, stops)

    assert "".join(texts) == (seen if expected is None else expected)


@given(STREAMS, st.lists(STOPS, min_size=1, max_size=4))
def test_no_more_is_held_than_may_begin_a_stop_string(tokenizer, text, stops):
    token_ids = encoded(tokenizer, text)
    streamer, plain = TokenTextStreamer(tokenizer, stops), TokenTextStreamer(tokenizer)
    given_out = seen = ""
    for token_id in token_ids:
        streamer.put([token_id])
        plain.put([token_id])
        given_out, seen = given_out + streamer.take(), seen + plain.take()
        if streamer.stopped:
            break
        held = seen.removeprefix(given_out)
        assert seen == given_out + held
        assert not held or any(stop.startswith(held) for stop in stops)


def test_taking_never_waits(tokenizer):
    streamer = TokenTextStreamer(tokenizer)

    assert streamer.take() == ""
    streamer.put([THE, WORLD])
    assert streamer.take() == "The world"
    assert streamer.take() == ""


def test_it_streams_to_another_thread_as_transformers_do(tokenizer):
    """`generate` puts the prompt and then tensors of one token; the reader loops until the end."""
    streamer = TokenTextStreamer(tokenizer, skip_prompt=True, timeout=30)

    def generate() -> None:
        streamer.put(torch.tensor([[USER, THE, END]]))
        for token_id in (THE, *LLAMA, AND, WORLD):
            streamer.put(torch.tensor([token_id]))
        streamer.end()

    thread = threading.Thread(target=generate)
    thread.start()
    texts = list(streamer)
    thread.join()

    assert [text for text in texts if text] == ["The", "🦙", " and", " world"]


def test_a_stop_string_works_across_threads_too(tokenizer):
    streamer = TokenTextStreamer(tokenizer, ["world"], timeout=30)

    def generate() -> None:
        for token_id in (THE, AND, WORLD, DOT):
            streamer.put(torch.tensor([token_id]))
        streamer.end()

    thread = threading.Thread(target=generate)
    thread.start()
    text = "".join(streamer)
    thread.join()

    assert text == "The and "
    assert streamer.stopped
