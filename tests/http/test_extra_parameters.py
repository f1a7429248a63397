"""The parameters beyond the API's table: each does what it says, and keeps its bounds."""

from typing import Any

import pytest

from .error_bodies import assert_error
from .parrot import ParrotServer
from .running_server import Endpoint, RunningServer, assert_well, user

PROMPT, TOKENS = "How many languages are in the world?", 24


def asked(server: Endpoint, prompt: str = PROMPT, **parameters: Any) -> dict[str, Any]:
    """The answer with the parameters let through, greedy unless they say otherwise."""
    body = {"messages": [user(prompt)], "temperature": 0} | parameters
    response = server.post(body, extra_parameters="pass-through")
    assert response.status_code == 200, response.text
    return dict(response.json())


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def likeliest(server: Endpoint, number: int = 1) -> list[dict[str, Any]]:
    """The first token's alternatives."""
    answer = asked(server, max_tokens=1, logprobs=True, top_logprobs=number)
    return list(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"])


def id_of(server: RunningServer, token: dict[str, Any]) -> int:
    """The id of an alternative: the one whose ban changes the first token. The demo's tokens are
    few."""
    for token_id in range(400):
        bias = {str(token_id): -100}
        first = asked(server, max_tokens=1, logprobs=True, logit_bias=bias)
        if first["choices"][0]["logprobs"]["content"][0]["bytes"] != token["bytes"]:
            return token_id
    raise AssertionError("no ban changes the first token")


def test_a_bias_of_100_forces_a_token_and_one_of_minus_100_bans_it(demo: RunningServer) -> None:
    (first,) = likeliest(demo)
    token_id = id_of(demo, first)
    forced = asked(demo, max_tokens=8, logit_bias={str(token_id): 100}, logprobs=True)
    tokens = forced["choices"][0]["logprobs"]["content"]
    assert [token["bytes"] for token in tokens] == [first["bytes"]] * 8
    ended = asked(demo, max_tokens=8, logit_bias={str(token_id): 100}, stop_token_ids=[token_id])
    assert (text_of(ended), ended["choices"][0]["finish_reason"]) == ("", "stop")
    assert ended["usage"]["completion_tokens"] == 1
    assert_well(demo)


def test_as_many_biases_as_are_allowed_still_give_an_answer(demo: RunningServer) -> None:
    """Every token of the demo's banned: the likeliest of them comes all the same."""
    refused = demo.post(
        {"messages": [user("hi")], "logit_bias": {"100000": 1}}, extra_parameters="pass-through"
    )
    vocab_size = int(refused.json()["message"].rsplit(" ", 1)[1]) + 1
    assert vocab_size <= 1024
    bias = {str(token_id): -100 for token_id in range(vocab_size)}
    free, biased = asked(demo, max_tokens=4), asked(demo, max_tokens=4, logit_bias=bias)
    assert text_of(free) == text_of(biased)
    assert_well(demo)


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"min_p": 1.0}, {"top_k": "1"}, {"top_p": 1e-9}], ids=str
)
def test_a_draw_from_one_token_is_greedy(demo: RunningServer, narrow: dict[str, Any]) -> None:
    sampled = {"temperature": 2.0, "seed": 3, "max_tokens": TOKENS}
    greedy = text_of(asked(demo, max_tokens=TOKENS))
    assert text_of(asked(demo, **sampled)) != greedy
    assert text_of(asked(demo, **sampled | narrow)) == greedy


@pytest.mark.parametrize("off", [{"top_k": 0}, {"top_k": -1}, {"top_k": 10**12}, {"min_p": 0}])
def test_what_is_off_changes_nothing(demo: RunningServer, off: dict[str, Any]) -> None:
    sampled = {"temperature": 1.5, "seed": 3, "max_tokens": TOKENS}
    assert text_of(asked(demo, **sampled | off)) == text_of(asked(demo, **sampled))


def test_a_repetition_penalty_changes_the_answer(demo: RunningServer) -> None:
    plain = asked(demo, max_tokens=60)
    assert text_of(asked(demo, max_tokens=60, repetition_penalty=1)) == text_of(plain)
    assert text_of(asked(demo, max_tokens=60, repetition_penalty=5)) != text_of(plain)


def test_ignore_eos_goes_on_to_max_tokens(parrot: ParrotServer) -> None:
    """The parrot says its end of turn for ever once it has said everything."""
    assert asked(parrot, "hi", max_tokens=10)["usage"]["completion_tokens"] == 3
    answer = asked(parrot, "hi", max_tokens=10, ignore_eos="true")
    assert (text_of(answer), answer["choices"][0]["finish_reason"]) == ("hi", "length")
    assert answer["usage"]["completion_tokens"] == 10


def test_min_tokens_puts_off_the_end(parrot: ParrotServer) -> None:
    answer = asked(parrot, "hi", min_tokens=7, max_tokens=20)
    assert (text_of(answer), answer["choices"][0]["finish_reason"]) == ("hi", "stop")
    assert answer["usage"]["completion_tokens"] == 8
    assert asked(parrot, "hi", min_tokens=0)["usage"]["completion_tokens"] == 3


def test_min_tokens_alone_may_exceed_the_default_of_max_tokens(parrot: ParrotServer) -> None:
    """No more come than the context has room for."""
    answer = asked(parrot, "hi", min_tokens=1023)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert_well(parrot)


def test_max_completion_tokens_is_max_tokens(parrot: ParrotServer) -> None:
    answer = asked(parrot, "a long word", max_completion_tokens=3)
    assert (text_of(answer), answer["choices"][0]["finish_reason"]) == ("a l", "length")


def test_a_seed_gives_the_same_answer_alone_and_again(demo: RunningServer) -> None:
    sampled = {"temperature": 1.0, "max_tokens": TOKENS}
    for seed in (0, -1, 2**63 - 1):
        first = text_of(asked(demo, seed=seed, **sampled))
        assert text_of(asked(demo, seed=seed, **sampled)) == first
    assert text_of(asked(demo, seed=0, **sampled)) != text_of(asked(demo, seed=1, **sampled))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"100000": 1}),
        ("logit_bias", {"abc": 1}),
        ("logit_bias", {"1.5": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"5": -100.5}),
        ("logit_bias", {"5": True}),
        ("logit_bias", {"5": None}),
        ("logit_bias", {str(n): 0 for n in range(1025)}),
        ("logit_bias", {str(n): 0 for n in range(10_000)}),
        ("logit_bias", {"canary" * 2000: 1}),
        ("logit_bias", [1, 2]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [32064]),
        ("stop_token_ids", [2**31]),
        ("stop_token_ids", [10**30]),
        ("stop_token_ids", ["end"]),
        ("stop_token_ids", [True]),
        ("stop_token_ids", [1] * 17),
        ("stop_token_ids", 7),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_k", True),
        ("min_p", -0.01),
        ("min_p", 1.01),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("repetition_penalty", 101),
        ("min_tokens", -1),
        ("min_tokens", 10**9),
        ("ignore_eos", "perhaps"),
        ("ignore_eos", 2),
        ("max_completion_tokens", 0),
        ("num_crops", 0),
        ("num_crops", 17),
        ("num_crops", True),
        ("n", 0),
        ("n", 2),
        ("n", 10**6),
        ("n", True),
        ("stream_options", True),
        ("stream_options", {"include_usage": "perhaps"}),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_value_out_of_bounds_is_a_422_that_names_it(
    demo: RunningServer, name: str, value: Any
) -> None:
    response = demo.post({"messages": [user("hi")], name: value}, extra_parameters="pass-through")
    error = assert_error(response, 422, "invalid_parameter")
    assert error["detail"][0]["loc"][:2] == ["body", name]
    assert_well(demo)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"min_tokens": 6, "max_completion_tokens": 5}, "min_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {}, "stream": False}, "stream_options"),
    ],
    ids=str,
)
def test_parameters_that_contradict_each_other_are_a_422(
    demo: RunningServer, parameters: dict[str, Any], named: str
) -> None:
    response = demo.post({"messages": [user("hi")], **parameters}, extra_parameters="pass-through")
    assert_error(response, 422, "invalid_parameter", named)


@pytest.mark.parametrize("name", ["best_of", "user", "lora", "use_beam_search"])
def test_what_nothing_here_understands_is_never_ignored(demo: RunningServer, name: str) -> None:
    response = demo.post({"messages": [user("hi")], name: 2}, extra_parameters="pass-through")
    assert_error(response, 422, "parameter_not_supported", name)
