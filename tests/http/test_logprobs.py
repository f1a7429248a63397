"""Log-probabilities, for those who let the parameter through: OpenAI's form, streamed or not."""

import math
from typing import Any

import pytest

from .error_bodies import assert_error
from .event_streams import stream
from .running_server import RunningServer, assert_well

PASS = {"extra-parameters": "pass-through"}
PROMPT, TOKENS = "How many languages are in the world?", 12


def content_of(server: RunningServer, **parameters: Any) -> list[dict[str, Any]]:
    """The tokens of an answer in one piece."""
    response = server.post(
        {
            "messages": [{"role": "user", "content": PROMPT}],
            "temperature": 0,
            "max_tokens": TOKENS,
            "logprobs": True,
            **parameters,
        },
        extra_parameters="pass-through",
    )
    assert response.status_code == 200, response.text
    return list(response.json()["choices"][0]["logprobs"]["content"])


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_each_token_is_reported_with_its_probability(
    name: str, request: pytest.FixtureRequest
) -> None:
    server: RunningServer = request.getfixturevalue(name)
    content = content_of(server)
    assert len(content) == TOKENS
    for token in content:
        assert token.keys() == {"token", "logprob", "bytes", "top_logprobs"}
        assert isinstance(token["token"], str)
        assert -100 < token["logprob"] <= 0
        assert all(0 <= byte < 256 for byte in token["bytes"])
        assert token["top_logprobs"] == []
    assert_well(server)


def test_the_bytes_of_the_tokens_are_the_text(tiny: RunningServer) -> None:
    text = tiny.text(PROMPT, max_tokens=TOKENS)
    joined = b"".join(bytes(token["bytes"]) for token in content_of(tiny))
    assert joined.decode().strip() == text.strip()


@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_the_likeliest_alternatives_come_best_first(demo: RunningServer, top: int) -> None:
    for token in content_of(demo, top_logprobs=top):
        best = token["top_logprobs"]
        assert len(best) == top
        assert all(alternative.keys() == {"token", "logprob", "bytes"} for alternative in best)
        logprobs = [alternative["logprob"] for alternative in best]
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) <= 1 + 1e-5
        if best:  # a greedy answer takes the first
            assert (best[0]["bytes"], best[0]["logprob"]) == (token["bytes"], token["logprob"])


def test_a_sampled_token_need_not_be_among_the_likeliest(demo: RunningServer) -> None:
    content = content_of(demo, temperature=2.0, seed=5, top_logprobs=1)
    assert any(token["logprob"] < token["top_logprobs"][0]["logprob"] for token in content)
    assert all(token["logprob"] <= token["top_logprobs"][0]["logprob"] for token in content)


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_streamed_they_come_with_their_tokens(name: str, request: pytest.FixtureRequest) -> None:
    server: RunningServer = request.getfixturevalue(name)
    parameters = {"logprobs": True, "top_logprobs": 3, "max_tokens": TOKENS}
    streamed = stream(server, PROMPT, PASS, **parameters)
    content = []
    for chunk in streamed.chunks:
        logprobs = chunk["choices"][0]["logprobs"]
        assert logprobs is None or len(logprobs["content"]) >= 1
        content += logprobs["content"] if logprobs else []
    assert content == content_of(server, top_logprobs=3)
    assert streamed.chunks[0]["choices"][0]["logprobs"] is None
    assert_well(server)


def test_they_are_asked_for_by_the_extra_parameters_header_only(demo: RunningServer) -> None:
    assert_error(demo.ask("hi", logprobs=True), 400, "unknown_parameter", "logprobs")
    assert demo.ask("hi", logprobs=None, max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs"),
        ({"logprobs": "perhaps"}, "logprobs"),
        ({"logprobs": True, "n": 2}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
    ],
    ids=str,
)
def test_their_bounds_are_kept(demo: RunningServer, parameters: dict[str, Any], place: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **parameters}
    response = demo.post(body, extra_parameters="pass-through")
    assert_error(response, 422, "invalid_parameter", place)
    assert_well(demo)
