"""Answers in one piece: their form, where they end, and what makes two of them equal."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .conftest import CONTEXT
from .error_bodies import assert_error
from .event_streams import stream
from .parrot import ParrotServer
from .pictures import encoded, image_part, noise, plain_png
from .running_server import RunningServer, assert_well, counts, user

SAMPLED = {"temperature": 1.0, "max_tokens": 24}


@pytest.mark.parametrize("name", ["demo", "parrot"])
def test_an_answer_has_all_keys_of_the_contract(name: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(name)
    response = server.ask("hi", max_tokens=8, model="azureai")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.content.isascii()
    body = response.json()
    assert body.keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert re.fullmatch("[0-9a-f]{32}", body["id"])
    assert body["object"] == "chat.completion"
    assert type(body["created"]) is int
    assert abs(body["created"] - time.time()) < 60
    assert body["model"] == "phi3v-demo"  # the served one, whatever was asked for
    (choice,) = body["choices"]
    assert choice.keys() == {"index", "message", "finish_reason", "logprobs"}
    assert (choice["index"], choice["logprobs"]) == (0, None)
    assert choice["message"].keys() == {"role", "content", "tool_calls"}
    assert (choice["message"]["role"], choice["message"]["tool_calls"]) == ("assistant", None)
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    details = usage.pop("prompt_tokens_details")
    assert details.keys() == {"cached_tokens", "image_tokens"}
    assert usage.keys() == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert all(type(count) is int for count in usage.values())
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert_well(server)


def test_every_answer_has_an_id_of_its_own(demo: RunningServer) -> None:
    assert len({demo.ask("hi", max_tokens=1).json()["id"] for _ in range(3)}) == 3


def test_an_answer_ends_with_stop_where_the_model_ends_it(parrot: ParrotServer) -> None:
    body = parrot.ask("Twelve words").json()
    assert body["choices"][0]["message"]["content"] == "Twelve words"
    assert body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_an_answer_ends_with_length_after_max_tokens(parrot: ParrotServer, max_tokens: int) -> None:
    body = parrot.ask("Twelve words", max_tokens=max_tokens).json()
    assert body["choices"][0]["message"]["content"] == "Twelve words"[:max_tokens]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == max_tokens


def test_an_answer_that_ends_by_itself_at_max_tokens_has_stopped(parrot: ParrotServer) -> None:
    """Twelve characters and the end token: the model had its say."""
    body = parrot.ask("Twelve words", max_tokens=13).json()
    assert body["choices"][0]["finish_reason"] == "stop"
    body = parrot.ask("Twelve words", max_tokens=12).json()
    assert body["choices"][0]["finish_reason"] == "length"


def test_an_answer_ends_with_length_where_the_context_ends(parrot: ParrotServer) -> None:
    """The parrot's context has 1024 tokens: of 600 characters it can repeat only some."""
    said = "abcdefghij" * 60
    body = parrot.ask(said, max_tokens=1000).json()
    usage, choice = body["usage"], body["choices"][0]
    assert usage["total_tokens"] == 1024
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == said[: usage["completion_tokens"]]
    assert_well(parrot)


def test_more_max_tokens_than_the_context_holds_are_cut_to_it(small: RunningServer) -> None:
    """The card's own default is more than this context, too."""
    for parameters in ({"max_tokens": 10**9}, {}):
        response = small.ask("x" * (CONTEXT - 80), **parameters)
        assert response.status_code == 200
        assert response.json()["usage"]["total_tokens"] <= CONTEXT
    assert_well(small)


def test_a_prompt_may_fill_the_context_but_for_one_token(small: RunningServer) -> None:
    around = small.ask("x", max_tokens=1).json()["usage"]["prompt_tokens"] - 1
    response = small.ask("x" * (CONTEXT - 1 - around), max_tokens=5)
    assert response.status_code == 200
    usage = response.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (CONTEXT - 1, 1)

    for surplus in (0, 1, 5000):
        response = small.ask("x" * (CONTEXT - around + surplus), max_tokens=5)
        body = assert_error(response, 400, "context_length_exceeded")
        numbers = re.findall(r"\d+", body["message"])
        assert numbers == [str(CONTEXT + surplus), str(CONTEXT)]
    assert_well(small)


def test_a_picture_too_many_tokens_for_the_context_says_so(small: RunningServer) -> None:
    text = {"type": "text", "text": "x" * (CONTEXT - 50)}
    body = assert_error(
        small.ask([image_part(plain_png(300, 300)), text], max_tokens=1),
        400,
        "context_length_exceeded",
    )
    assert "image" in body["message"]
    assert_well(small)


def test_the_usage_tells_what_was_cached(parrot: ParrotServer) -> None:
    """Whole blocks of 16 tokens, and never the last token, which has yet to be computed."""
    question = "How many tokens of this question are in the cache?"

    def usage(streamed: bool) -> dict[str, Any]:
        if streamed:
            return stream(parrot, question).usage
        return dict(parrot.ask(question).json()["usage"])

    first, again, streamed = usage(False), usage(False), usage(True)
    assert first["prompt_tokens_details"]["image_tokens"] == 0
    whole_blocks = (again["prompt_tokens"] - 1) // 16 * 16
    assert again["prompt_tokens_details"]["cached_tokens"] == whole_blocks > 32
    assert first["prompt_tokens_details"]["cached_tokens"] < whole_blocks
    assert streamed == again
    assert_well(parrot)


def test_a_picture_counts_in_the_prompt(demo: RunningServer) -> None:
    def prompt_tokens(*parts: object) -> int:
        response = demo.ask([{"type": "text", "text": "hi"}, *parts], max_tokens=1)
        usage = response.json()["usage"]
        # Beside its slots a picture takes a line break, in two tokens here, and a token behind it.
        images = usage["prompt_tokens_details"]["image_tokens"]
        assert usage["prompt_tokens"] == text_tokens + images + (3 if images else 0)
        return int(usage["prompt_tokens"])

    text_tokens = demo.ask("hi", max_tokens=1).json()["usage"]["prompt_tokens"]

    text_only = prompt_tokens()
    assert prompt_tokens(image_part(plain_png(50, 50))) > text_only + 16
    assert_well(demo)


def test_only_the_last_picture_of_a_conversation_is_kept(demo: RunningServer) -> None:
    """An earlier one leaves its turn, whose text stays; the answer is that of a conversation in
    which it never was."""

    def answer(last: dict[str, object], *earlier: object) -> tuple[object, ...]:
        return demo.fingerprint(
            {"role": "user", "content": [{"type": "text", "text": "Look"}, *earlier]},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": [{"type": "text", "text": "And?"}, last]},
        )

    last = image_part(plain_png(60, 40))
    assert answer(last, image_part(plain_png(90, 30))) == answer(last)
    # One that goes unused need not even be a picture.
    assert answer(last, image_part(b"not a picture")) == answer(last)
    assert answer(image_part(encoded(noise(60, 40), "PNG"))) != answer(last)
    assert_well(demo)


def test_a_picture_keeps_its_place_in_an_earlier_turn(demo: RunningServer) -> None:
    picture = image_part(encoded(noise(60, 40), "PNG"))

    def answer(first: list[object], second: list[object]) -> tuple[object, ...]:
        return demo.fingerprint(
            {"role": "user", "content": first},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": second},
        )

    look, and_so = {"type": "text", "text": "Look"}, {"type": "text", "text": "And?"}
    in_first, in_second = answer([look, picture], [and_so]), answer([look], [and_so, picture])
    assert in_first[0] != in_second[0]
    # Within a turn the picture comes first, wherever it was put.
    assert answer([picture, look], [and_so]) == in_first


def test_system_and_developer_messages_are_turns_of_a_user(demo: RunningServer) -> None:
    def answer(role: str) -> str:
        messages = [{"role": role, "content": "Be brief."}, user("hi")]
        body = {"messages": messages, "temperature": 0, "max_tokens": 16}
        return str(demo.post(body).json()["choices"][0]["message"]["content"])

    assert answer("system") == answer("developer") == answer("user")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Only a system message."}],
        [user("hi"), {"role": "assistant", "content": "Well,"}],
        [user("")],
        [user(" \n ")],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": None}],
        [user("hi"), {"role": "assistant"}, user("so?")],
        [user("hi\u0000\u202e\u0301" * 3)],
        [{"role": "user", "content": "hi", "name": "Eve", "whatever": {"a": 1}}],
    ],
    ids=lambda messages: "+".join(str(message["role"]) for message in messages),
)
def test_odd_conversations_are_answered(
    demo: RunningServer, messages: list[dict[str, object]]
) -> None:
    response = demo.post({"messages": messages, "temperature": 0, "max_tokens": 4})
    assert response.status_code == 200, response.text
    assert_well(demo)


def test_control_tokens_in_text_are_text(parrot: ParrotServer) -> None:
    """The parrot finds the last turn by its control tokens, so typed ones would cut it short."""
    said = "a<|end|>b<|user|>c<|assistant|>d<|image_1|>e</s>f<|endoftext|>g"
    assert parrot.text(said) == said


def test_ten_thousand_typed_tags_are_ten_times_as_many_tokens_as_a_thousand(
    parrot: ParrotServer,
) -> None:
    """Each was once looked for among all others."""
    picture = image_part(plain_png(40, 30))

    def num_tokens(number: int) -> int:
        content = [picture, {"type": "text", "text": "<|image_1|>" * number}]
        error = assert_error(parrot.ask(content), 400, "context_length_exceeded")
        found = re.search(r"the prompt has (\d+) tokens", error["message"])
        assert found
        return int(found[1])

    few, more, most = (num_tokens(number) for number in (1000, 2000, 10_000))
    assert (most - few) == 9 * (more - few)
    assert_well(parrot)


def test_control_tokens_in_an_answer_are_no_text(demo: RunningServer) -> None:
    """Forced by a bias: what ends a turn ends the answer, others are left out of it, streamed or
    whole."""
    reasons = set()
    for token_id in range(demo_vocabulary(demo) - 24, demo_vocabulary(demo)):
        parameters = {"logit_bias": {str(token_id): 100}, "max_tokens": 4}
        passed = {"extra_parameters": "pass-through"}
        body = {"messages": [user("hi")], "temperature": 0, **parameters}
        (choice,) = demo.post(body, **passed).json()["choices"]
        text = choice["message"]["content"]
        streamed = stream(demo, "hi", {"extra-parameters": "pass-through"}, **parameters)
        assert (streamed.text, streamed.finish_reason) == (text, choice["finish_reason"])
        assert "<|" not in text
        reasons.add(choice["finish_reason"])
    assert reasons == {"stop", "length"}
    assert_well(demo)


def demo_vocabulary(demo: RunningServer) -> int:
    """Told by the error for an id beyond it."""
    body = {"messages": [user("hi")], "stop_token_ids": [10**9]}
    error = assert_error(demo.post(body, extra_parameters="pass-through"), 422)
    return int(error["message"].rsplit(" ", 1)[1]) + 1


def test_greedy_answers_are_always_the_same(demo: RunningServer) -> None:
    assert len({demo.text("Why is the sky blue?", max_tokens=24) for _ in range(3)}) == 1


def test_the_same_seed_gives_the_same_answer_and_another_one_another(demo: RunningServer) -> None:
    first = demo.text("hi", seed=1, **SAMPLED)
    assert demo.text("hi", seed=1, **SAMPLED) == first
    others = {demo.text("hi", seed=seed, **SAMPLED) for seed in range(2, 8)}
    assert len(others - {first}) >= 5


def test_without_a_seed_answers_differ(demo: RunningServer) -> None:
    assert len({demo.text("hi", **SAMPLED) for _ in range(6)}) > 1


def test_a_seed_gives_the_same_answer_among_others(demo: RunningServer) -> None:
    """What a token is drawn with depends on the seed and the token's place, not on neighbours."""
    seeds = range(6)

    def answer(seed: int) -> str:
        return demo.text("Tell me a story.", temperature=1.0, top_p=0.9, max_tokens=60, seed=seed)

    alone = [answer(seed) for seed in seeds]
    assert len(set(alone)) == len(seeds)
    with ThreadPoolExecutor(10) as threads:
        noise = [
            threads.submit(demo.text, f"Question {i}", max_tokens=120, temperature=1.2)
            for i in range(4)
        ]
        together = list(threads.map(answer, seeds))
        assert all(isinstance(future.result(), str) for future in noise)
    assert together == alone
    assert_well(demo)


def test_the_golden_pictures_are_answered_alike_twice(tiny: RunningServer, shared: Path) -> None:
    """The second time the features come from the cache, and part of the prompt does too."""
    for name in ("square_500x500.png", "portrait_1069x1900.png", "i16_200x150.png"):
        part = image_part((shared / "golden" / "images" / name).read_bytes())
        content = [{"type": "text", "text": "What is this?"}, part]
        first = tiny.ask(content, max_tokens=12).json()
        second = tiny.ask(content, max_tokens=12).json()
        assert (first["choices"], counts(first)) == (second["choices"], counts(second))
        assert first["usage"]["prompt_tokens"] > 300
        details = second["usage"]["prompt_tokens_details"]
        assert 0 < details["cached_tokens"] < second["usage"]["prompt_tokens"]
    assert_well(tiny)
