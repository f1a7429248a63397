"""POST /score: Azure ML's task format, and whatever else `az ml online-endpoint invoke` sends."""

import json
from typing import Any

import httpx
import pytest

from .error_bodies import assert_error
from .parrot import ParrotServer
from .pictures import image_part, plain_png
from .running_server import RunningServer, assert_well, user


def task(text: Any = "hi there", **parameters: Any) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"input_data": {"input_string": [message], "parameters": parameters}}


def score(server: Any, body: Any) -> httpx.Response:
    content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    response: httpx.Response = server.request("POST", "/score", content=content, headers=headers)
    return response


def test_a_task_is_answered_with_its_text_alone(parrot: ParrotServer) -> None:
    response = score(parrot, task(temperature=0))
    assert response.status_code == 200
    assert response.json() == {"output": "hi there"}
    assert response.headers["content-type"] == "application/json"
    for bare in ({}, {"parameters": None}, {"parameters": {}}):
        body = {"input_data": {"input_string": [user("hi")], **bare}}
        assert score(parrot, body).json() == {"output": "hi"}
    assert_well(parrot)


@pytest.mark.parametrize("name", ["max_new_tokens", "max_gen_len", "max_tokens"])
def test_its_length_has_several_names(parrot: ParrotServer, name: str) -> None:
    for value in (2, "2"):
        assert score(parrot, task(**{name: value})).json() == {"output": "hi"}


def test_azures_published_sample_is_answered(demo: RunningServer) -> None:
    """A picture and a text, in the shape of its visual chat sample."""
    content = [image_part(plain_png(40, 30)), {"type": "text", "text": "What is it?"}]
    body = {
        "input_data": {
            "input_string": [{"role": "user", "content": content}],
            "parameters": {"temperature": 0.7, "max_new_tokens": 4},
        }
    }
    response = score(demo, body)
    assert response.status_code == 200, response.text
    assert response.json().keys() == {"output"}
    assert_well(demo)


def test_its_parameters_are_the_chats(demo: RunningServer) -> None:
    """With the same seed the same answer comes; not to sample is to be greedy."""
    sampled = {"temperature": 1.5, "seed": 5, "top_k": 40, "stop": "zzz"}
    passed = {"extra_parameters": "pass-through"}
    chat = {"messages": [user("golden")], "max_tokens": 20}
    expected = demo.post(chat | sampled, **passed).json()["choices"][0]["message"]["content"]
    assert score(demo, task("golden", max_new_tokens=20, **sampled)).json()["output"] == expected
    greedy = demo.text("golden", max_tokens=20)
    asked = task("golden", max_new_tokens=20, do_sample=False, return_full_text=False, **sampled)
    assert score(demo, asked).json()["output"] == greedy != expected


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"input_data": None}, "input_data"),
        ({"input_data": []}, "input_data"),
        ({"input_data": {}}, "input_data.input_string"),
        ({"input_data": {"input_string": []}}, "input_data.input_string"),
        ({"input_data": {"input_string": "hi"}}, "input_data.input_string"),
        ({"input_data": {"input_string": ["hi"]}}, "input_data.input_string.0"),
        (task(temperature=3), "input_data.parameters.temperature"),
        (task(max_new_tokens=0), "input_data.parameters.max_new_tokens"),
        (task(return_full_text=True), "input_data.parameters.return_full_text"),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [user("hi")], "temperature": 3}, "temperature"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_where_it_stands(parrot: ParrotServer, body: Any, loc: str) -> None:
    assert_error(score(parrot, body), 422, "invalid_parameter", loc)
    assert_well(parrot)


PICTURE = image_part(b"no picture")
AT = "input_data.input_string.0.content"


@pytest.mark.parametrize(
    ("body", "code", "loc"),
    [
        (task(stop_token_ids=[10**6]), "invalid_parameter", "input_data.parameters.stop_token_ids"),
        (task(top_logprobs=3), "invalid_parameter", "input_data.parameters.top_logprobs"),
        (task([PICTURE]), "invalid_parameter", f"{AT}.0.image_url.url"),
        (task([PICTURE, PICTURE]), "parameter_not_supported", AT),
        (task(guided_regex="(a"), "invalid_parameter", "input_data.parameters.guided_regex"),
    ],
    ids=["token-id", "together", "picture", "pictures", "regex"],
)
def test_what_the_model_refuses_is_named_in_the_tasks_own_body(
    demo: RunningServer, body: Any, code: str, loc: str
) -> None:
    assert_error(score(demo, body), 422, code, loc)
    assert_well(demo)


def test_a_bad_header_is_a_400_with_a_task_too(parrot: ParrotServer) -> None:
    headers = {"Content-Type": "application/json", "extra-parameters": "perhaps"}
    response = parrot.request(
        "POST", "/score", content=json.dumps(task()).encode(), headers=headers
    )
    assert_error(response, 400, "unknown_parameter")


def test_an_unknown_parameter_of_a_task_is_a_400(parrot: ParrotServer) -> None:
    loc = "input_data.parameters.num_beams"
    assert_error(score(parrot, task(num_beams=3)), 400, "unknown_parameter", loc)


def test_a_body_that_is_no_object_is_a_422(parrot: ParrotServer) -> None:
    for body in ([], "hi", 3, None, [task()]):
        assert_error(score(parrot, body), 422, "invalid_parameter")
