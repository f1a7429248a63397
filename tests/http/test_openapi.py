"""The API's description is valid, says what the server does, and leaves no error out."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from .pictures import image_part, plain_png
from .running_server import RunningServer, user

Document = dict[str, Any]
CHATS = ("/chat/completions", "/v1/chat/completions", "/score")
ERRORS_OF_CHATS = {"400", "401", "408", "413", "415", "422", "424", "429", "431", "500", "503"}


@pytest.fixture(scope="module")
def document(demo: RunningServer) -> Document:
    return dict(demo.get("/openapi.json").json())


@pytest.mark.parametrize("path", ["/openapi.json", "/swagger.json", "/swagger.json?version=3"])
def test_the_document_is_valid_openapi_under_both_names(demo: RunningServer, path: str) -> None:
    response = demo.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    validate(response.json())
    assert response.json() == demo.get("/openapi.json").json()


def test_every_route_of_the_api_is_in_it(document: Document) -> None:
    assert set(document["paths"]) == {
        *("/info", "/models/info", "/score/info", "/score"),
        *("/chat/completions", "/models/chat/completions", "/score/chat/completions"),
        *("/v1/chat/completions", "/v1/models", "/v1/models/{model}"),
        *("/openai/v1/chat/completions", "/openai/v1/models", "/openai/v1/models/{model}"),
        *("/score/v1/chat/completions", "/score/v1/models", "/score/v1/models/{model}"),
        "/openai/deployments/{deployment}/chat/completions",
    }


def test_every_error_is_in_it_and_has_the_one_shape(document: Document) -> None:
    reference = {"$ref": "#/components/schemas/ErrorBody"}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            responses = operation["responses"]
            expected = ERRORS_OF_CHATS if "post" in methods else {"400", "401", "431", "500"}
            assert set(responses) >= {"200"} | expected, path
            for status, response in responses.items():
                if status != "200":
                    assert response["content"] == {"application/json": {"schema": reference}}
                    assert response["description"].startswith("`")
                retried = status in ("429", "503")
                assert ("Retry-After" in response.get("headers", {})) == retried
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_ranges_are_in_it_as_schemas_say_them(document: Document) -> None:
    """A validator before a bound hides it: pydantic then writes `ge`, which means nothing."""
    schema = document["components"]["schemas"]["ChatCompletionsRequest"]
    check = Draft202012Validator({**schema, "components": document["components"]})
    fine = {"messages": [user("hi")], "temperature": 2, "stop": "x", "top_k": -1, "seed": -5}
    assert check.is_valid(fine)
    assert check.is_valid(fine | {"stop": ["x", "y"], "logit_bias": {"5": -100}})
    for wrong in (
        {"temperature": 2.1},
        {"top_p": 0},
        {"max_tokens": 0},
        {"top_logprobs": 21},
        {"n": 2},
        {"seed": 2**63},
        {"messages": []},
        {"stop": 3},
        {"logit_bias": {"5": 101}},
    ):
        assert not check.is_valid(fine | wrong), wrong


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        *((path, {"messages": [user("hi")], "max_tokens": 2}, 200) for path in CHATS),
        *((path, {"messages": [{"role": "user", "content": [{}]}]}, 422) for path in CHATS),
        ("/chat/completions", {"messages": [user("hi")], "x": 1}, 400),
        (
            "/v1/chat/completions",
            {"messages": [user("hi")], "max_tokens": 2, "logprobs": True, "top_logprobs": 2},
            200,
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [image_part(plain_png(9, 9))]}]},
            200,
        ),
        ("/score", {"input_data": {"input_string": [user("hi")]}}, 200),
        ("/info", None, 200),
        ("/v1/models", None, 200),
    ],
)
def test_an_answer_is_as_the_document_says(
    demo: RunningServer, document: Document, path: str, body: Any, status: int
) -> None:
    """To the last key: an answer's schema allows none that it does not name."""
    method = "GET" if body is None else "POST"
    response = demo.request(method, path, json=body)
    assert response.status_code == status
    said = document["paths"][path][method.lower()]["responses"][str(status)]["content"]
    schema = said["application/json"]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(response.json())
