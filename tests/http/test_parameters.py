"""Lenient where Microsoft's own samples need it, strict about names it does not know."""

from typing import Any

import pytest

from server.parameters import EXTRA_PARAMETERS

from .error_bodies import assert_error
from .parrot import ParrotServer
from .pictures import colourful, data_url, encoded, plain_png
from .running_server import RunningServer, assert_well, user


@pytest.mark.parametrize(
    "parameters",
    [
        {"presence_penalty": "0.1", "frequency_penalty": "0.8"},
        {"temperature": "0", "top_p": "1"},
        {"max_tokens": "5", "seed": "7"},
        {"max_tokens": 5.0},
        {"stream": "False"},
        {"stop": "zzz"},
        {"stop": ["zzz"]},
        {"stop": []},
        {"response_format": "text"},
        {"response_format": {"type": "text"}},
        {"model": "azureai"},
    ],
    ids=str,
)
def test_what_the_samples_send_is_taken(parrot: ParrotServer, parameters: dict[str, Any]) -> None:
    response = parrot.ask("hi", **parameters)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "hi"


def test_stream_may_be_a_word(parrot: ParrotServer) -> None:
    for word in ("True", "true", True):
        response = parrot.ask("hi", stream=word)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("name", ["stream", "logprobs", "ignore_eos"])
def test_a_number_is_neither_true_nor_false(parrot: ParrotServer, name: str) -> None:
    for number in (0, 1, 0.0, 1.0, 2):
        body = {"messages": [user("hi")], name: number}
        response = parrot.post(body, extra_parameters="pass-through")
        assert_error(response, 422, "invalid_parameter", name)


def test_a_number_in_words_means_the_number(demo: RunningServer) -> None:
    assert demo.ask("hi", max_tokens="3").json()["usage"]["completion_tokens"] <= 3
    numbers = {"temperature": 1.3, "seed": 9, "presence_penalty": 0.5, "max_tokens": 20}
    words = {name: str(value) for name, value in numbers.items()}
    assert demo.text("hi", **numbers) == demo.text("hi", **words)


def test_null_means_not_given(demo: RunningServer) -> None:
    names = (
        "model", "frequency_penalty", "presence_penalty", "top_p", "max_tokens", "stop", "stream",
        "response_format", "tools", "tool_choice", *EXTRA_PARAMETERS,
    )  # fmt: skip
    parameters = {"temperature": 1.0, "seed": 3}
    absent = demo.text("hi", **parameters)
    assert demo.text("hi", **parameters, **dict.fromkeys(names)) == absent


def test_penalties_change_the_answer(demo: RunningServer) -> None:
    plain = demo.text("golden", max_tokens=60)
    for penalty in ("presence_penalty", "frequency_penalty"):
        assert demo.text("golden", max_tokens=60, **{penalty: 2}) != plain


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "URL"}},
        {"type": "image_url", "image_url": {"url": "URL", "detail": "auto"}},
        {"type": "image_url", "image_url": {"url": "URL", "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "URL", "detail": None}},
        {"type": "image_url", "image": {"url": "URL"}},
        {"type": "image", "image": {"url": "URL"}},
        {"type": "image", "image": {"data": "URL"}},
        {"type": "image", "image": {"data": "BASE64"}},
    ],
    ids=str,
)
def test_a_picture_may_be_named_in_several_ways(demo: RunningServer, part: dict[str, Any]) -> None:
    """The JavaScript sample's key is `image`."""
    url = data_url(encoded(colourful(40, 30), "PNG"))
    plain = {"type": "image_url", "image_url": {"url": url}}
    key = "image_url" if "image_url" in part else "image"
    spelt = {"URL": url, "BASE64": url.partition(",")[2]}
    named = part | {key: {name: spelt.get(v, v) for name, v in part[key].items()}}
    expected = demo.fingerprint({"role": "user", "content": [plain]})
    assert demo.fingerprint({"role": "user", "content": [named]}) == expected


def test_low_detail_takes_fewer_tokens(demo: RunningServer) -> None:
    def prompt_tokens(detail: str) -> int:
        image = {"url": data_url(plain_png(40, 30)), "detail": detail}
        response = demo.ask([{"type": "image_url", "image_url": image}], max_tokens=1)
        return int(response.json()["usage"]["prompt_tokens"])

    assert prompt_tokens("low") < prompt_tokens("high") == prompt_tokens("auto")


def test_num_crops_bounds_what_a_picture_takes(demo: RunningServer) -> None:
    """Fewer crops, fewer tokens; one is what `detail: low` gives, which nothing overrides."""

    def prompt_tokens(num_crops: int | None, detail: str = "high") -> int:
        image = {"url": data_url(plain_png(400, 300)), "detail": detail}
        content = [{"type": "image_url", "image_url": image}]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        response = demo.post(body | {"num_crops": num_crops}, extra_parameters="pass-through")
        assert response.status_code == 200, response.text
        return int(response.json()["usage"]["prompt_tokens"])

    one, four, most = (prompt_tokens(number) for number in (1, 4, 16))
    assert one < four < most
    assert one < prompt_tokens(None) <= most
    assert prompt_tokens(16, detail="low") == one


BODY = {"messages": [user("hi")], "max_tokens": 2}


@pytest.mark.parametrize("headers", [{}, {"extra_parameters": "error"}], ids=str)
@pytest.mark.parametrize("name", ["safe_prompt", "n", "user", "max_completion_tokens", "lora"])
def test_an_unknown_parameter_is_a_400(
    demo: RunningServer, name: str, headers: dict[str, str]
) -> None:
    body = assert_error(demo.post(BODY | {name: 1}, **headers), 400, "unknown_parameter", name)
    assert name in body["message"]
    assert_well(demo)


@pytest.mark.parametrize(
    "extra", [{"safe_prompt": True}, {"logprobs": True}, {"n": 1}, {"a": None}], ids=str
)
def test_drop_ignores_what_is_unknown(demo: RunningServer, extra: dict[str, Any]) -> None:
    response = demo.post(BODY | extra, extra_parameters="drop")
    assert response.status_code == 200
    assert response.json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    "headers",
    [
        {"extra_parameters": "pass-through"},
        {"extra_parameters": "Pass-Through"},
        {"Extra_Parameters": "pass_through"},
        {"extra_params": "pass-through"},
        {"unknown_parameters": "pass_through"},
        {"unknown_parameters": "pass-through", "extra_parameters": "pass-through"},
    ],
    ids=str,
)
def test_pass_through_has_many_names(demo: RunningServer, headers: dict[str, str]) -> None:
    """The official header; the JavaScript sample's; and that of the first Python SDK."""
    response = demo.post(BODY | {"logprobs": True}, **headers)
    assert response.status_code == 200, response.text
    # An answer that ends at once has none, but the list.
    assert isinstance(response.json()["choices"][0]["logprobs"]["content"], list)


def test_the_official_header_wins(demo: RunningServer) -> None:
    headers = {"extra_parameters": "error", "unknown_parameters": "pass_through"}
    assert_error(demo.post(BODY | {"logprobs": True}, **headers), 400, "unknown_parameter")


def test_pass_through_of_what_nothing_understands_is_not_supported(demo: RunningServer) -> None:
    response = demo.post(BODY | {"safe_prompt": True}, extra_parameters="pass-through")
    body = assert_error(response, 422, "parameter_not_supported", "safe_prompt")
    assert "logprobs" in body["message"]  # it says what there is
    assert_well(demo)


@pytest.mark.parametrize("header", ["extra_parameters", "extra_params", "unknown_parameters"])
@pytest.mark.parametrize("value", ["ignore", "", "passthrough", "error, drop", "x" * 500])
def test_a_header_that_says_something_else_is_a_400(
    demo: RunningServer, header: str, value: str
) -> None:
    """Even where there is no extra parameter."""
    body = assert_error(demo.post(BODY, **{header: value}), 400, "unknown_parameter")
    assert "pass-through" in body["message"]
    assert_well(demo)
