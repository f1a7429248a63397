"""response_format and the guided extras over HTTP: what is promised, and what is refused."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest

from ..json_schemas import SCHEMAS, an_object
from .error_bodies import assert_error
from .event_streams import stream
from .pictures import image_part, plain_png
from .running_server import RunningServer, assert_well, user

SMALL = an_object(a={"type": "integer", "minimum": 0, "maximum": 9}, b={"enum": ["ä", "🦙"]})


def by_schema(schema: Any, **others: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **others}}


def answer(server: RunningServer, **parameters: Any) -> str:
    """The text of an answer that was not cut."""
    body = {"messages": [user("Describe yourself.")], "max_tokens": 500} | parameters
    response = server.post(body, extra_parameters="pass-through")
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    return str(choice["message"]["content"])


# What is promised


@pytest.mark.parametrize("temperature", [0, 1])
def test_fifty_schemas_side_by_side_are_kept_by_every_answer(
    demo: RunningServer, temperature: int
) -> None:
    """Among them are free requests, which say what they say alone."""
    names = SCHEMAS.keys() - {"a linked list"}  # which noise may make as long as it likes
    alone = demo.text("free", max_tokens=40)
    texts: dict[str, str] = {}
    frees: list[str] = []

    def ask(name: str) -> None:
        texts[name] = answer(
            demo, response_format=by_schema(SCHEMAS[name]), temperature=temperature, seed=7
        )

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    threads[10:10] = [
        threading.Thread(target=lambda: frees.append(demo.text("free", max_tokens=40)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert texts.keys() == names
    for name, text in texts.items():
        jsonschema.validate(json.loads(text), SCHEMAS[name], jsonschema.Draft202012Validator)
    assert frees == [alone] * 3
    assert_well(demo)


@pytest.mark.parametrize("form", ["json_object", {"type": "json_object"}], ids=str)
def test_a_json_object_is_a_json_object(demo: RunningServer, form: Any) -> None:
    """The demo's words are noise: with so many tokens, most of its objects come to an end."""
    texts = []
    for seed in range(6):
        parameters = {"temperature": 1, "seed": seed, "max_tokens": 2000}
        body = {"messages": [user("hi")], "response_format": form} | parameters
        (choice,) = demo.post(body).json()["choices"]
        if choice["finish_reason"] == "stop":
            texts.append(choice["message"]["content"])
        else:
            assert choice["message"]["content"].startswith("{")
    assert texts
    assert all(isinstance(json.loads(text), dict) for text in texts)


def test_streamed_it_is_the_same_text(demo: RunningServer) -> None:
    form = by_schema(SCHEMAS["an invoice"])
    whole = demo.text("an invoice, please", response_format=form, max_tokens=500)

    streamed = stream(demo, "an invoice, please", response_format=form, max_tokens=500)

    assert streamed.text == whole
    assert streamed.finish_reason == "stop"
    jsonschema.validate(json.loads(whole), SCHEMAS["an invoice"])


def test_with_a_picture_too(demo: RunningServer) -> None:
    content = [{"type": "text", "text": "What is this?"}, image_part(plain_png(40, 30))]
    text = demo.text(content, response_format=by_schema(SMALL), max_tokens=100)
    jsonschema.validate(json.loads(text), SMALL)


@pytest.mark.parametrize("strict", [True, False, None])
def test_it_is_strict_whether_asked_or_not(demo: RunningServer, strict: bool | None) -> None:
    form = by_schema(SMALL, strict=strict, description="A small thing.")
    jsonschema.validate(json.loads(answer(demo, response_format=form)), SMALL)


@pytest.mark.parametrize("pattern", ["[a-z]{3}-[0-9]{2}", " two|  three", "(yes|no)\\.", "a?"])
def test_an_answer_matches_the_regex_whole(demo: RunningServer, pattern: str) -> None:
    for seed in range(4):
        assert re.fullmatch(pattern, answer(demo, guided_regex=pattern, temperature=1, seed=seed))


def test_an_answer_is_one_of_the_choices(demo: RunningServer) -> None:
    choices = ["yes", "no", " perhaps", "<|end|>", "日本", ""]
    for seed in range(8):
        assert answer(demo, guided_choice=choices, temperature=1, seed=seed) in choices
    for choice in choices:
        assert answer(demo, guided_choice=[choice]) == choice


def test_the_guided_extras_are_extras(demo: RunningServer) -> None:
    for extra in ({"guided_regex": "a"}, {"guided_choice": ["a"]}):
        body = {"messages": [user("hi")], "max_tokens": 9, "temperature": 0}
        assert_error(demo.post(body | extra), 400, "unknown_parameter", next(iter(extra)))
        free = demo.post(body).json()["choices"][0]["message"]
        dropped = demo.post(body | extra, extra_parameters="drop").json()["choices"][0]["message"]
        assert dropped == free


def test_max_tokens_cuts_it(demo: RunningServer) -> None:
    response = demo.ask("hi", response_format=by_schema(SCHEMAS["an invoice"]), max_tokens=4)
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith('{"n')
    assert_well(demo)


def test_a_bias_against_what_must_come_does_not_keep_it_from_coming(demo: RunningServer) -> None:
    """Where the grammar leaves one way only, it is taken: a bias is no ban of what must come."""
    passed = {"extra_parameters": "pass-through"}
    for token_id in (0, 1, ord("{"), ord("{") + 3):  # bytes have their own tokens, from 3 on
        bias = {str(token_id): -100}
        body = {"messages": [user("hi")], "response_format": by_schema(SMALL), "logit_bias": bias}
        response = demo.post(body | {"max_tokens": 300}, **passed)
        assert response.status_code == 200, response.text
        (choice,) = response.json()["choices"]
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), SMALL)
    assert_well(demo)


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*b$", "^(.*)*x$"])
def test_a_pattern_that_others_backtrack_over_is_matched(demo: RunningServer, pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern, "maxLength": 20}
    response = demo.ask("hi", response_format=by_schema(schema), max_tokens=60)
    if response.status_code == 200:
        (choice,) = response.json()["choices"]
        text = choice["message"]["content"]
        if choice["finish_reason"] == "stop":
            jsonschema.validate(json.loads(text), schema)
    else:
        assert_error(response, 422, "parameter_not_supported")
    assert_well(demo)


def test_a_schema_nested_two_thousand_times_is_refused(demo: RunningServer) -> None:
    """A depth that 64 KiB have room for; Python's own writer of JSON gives up on it."""
    schema = b'{"items":' * 2000 + b"{}" + b"}" * 2000
    body = b'{"messages": [{"role": "user", "content": "hi"}], "response_format": {"type": '
    body += b'"json_schema", "json_schema": {"name": "deep", "schema": %s}}}' % schema
    assert_error(demo.post_bytes(body), 422, "invalid_parameter")
    assert_well(demo)


def test_schemas_that_refer_to_each_other_in_a_circle_are_refused_or_kept(
    demo: RunningServer,
) -> None:
    """A circle without an end allows nothing; a list of itself is a tree."""
    endless = {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    }
    assert_error(demo.ask("hi", response_format=by_schema(endless)), 422)
    tree = {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}
    response = demo.ask("hi", response_format=by_schema(tree), max_tokens=40)
    assert response.status_code == 200, response.text
    assert_well(demo)


def test_a_free_request_beside_others_with_grammars_says_what_it_says_alone(
    demo: RunningServer,
) -> None:
    alone = demo.text("golden", max_tokens=200)
    with ThreadPoolExecutor(5) as threads:
        free = [threads.submit(demo.text, "golden", max_tokens=200) for _ in range(2)]
        bound = [threads.submit(answer, demo, response_format=by_schema(SMALL)) for _ in range(3)]
        assert [one.result() for one in free] == [alone] * 2
        for one in bound:
            jsonschema.validate(json.loads(one.result()), SMALL)
    assert_well(demo)


def test_the_answer_of_a_free_request_is_text_as_before(demo: RunningServer) -> None:
    text = demo.text("hi", max_tokens=20)
    for form in ("text", {"type": "text"}, {"type": "text", "json_schema": None}, None):
        assert demo.text("hi", max_tokens=20, response_format=form) == text


# What is refused: with the place, and a reason

S = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("schema", "code", "place"),
    [
        ({"type": "int"}, "invalid_parameter", "type"),
        ({"type": []}, "invalid_parameter", "type"),
        (
            {"properties": {"a": {"maxlength": 3}}},
            "parameter_not_supported",
            "properties.a.maxlength",
        ),
        ({"items": {"not": {}}}, "parameter_not_supported", "items.not"),
        ({"type": "array", "uniqueItems": True}, "parameter_not_supported", "uniqueItems"),
        ({"anyOf": [{}, {"if": {}}]}, "parameter_not_supported", "anyOf.1.if"),
        ({"anyOf": []}, "invalid_parameter", "anyOf"),
        ({"properties": [1]}, "invalid_parameter", "properties"),
        ({"properties": {"a": 1}}, "invalid_parameter", "properties"),
        ({"items": [{}]}, "invalid_parameter", "items"),
        ({"minLength": -1}, "invalid_parameter", "minLength"),
        ({"minLength": True}, "invalid_parameter", "minLength"),
        ({"minItems": 10**6}, "invalid_parameter", "minItems"),
        ({"maxLength": 10**9}, "invalid_parameter", "maxLength"),
        ({"minimum": "0"}, "invalid_parameter", "minimum"),
        ({"required": "a"}, "invalid_parameter", "required"),
        ({"minProperties": 2}, "parameter_not_supported", "minProperties"),
        ({"x-guidance": {"lenient": True}}, "parameter_not_supported", "x-guidance"),
        ({"$ref": "http://127.0.0.1/schema"}, "parameter_not_supported", "$ref"),
        ({"$ref": "file:///etc/passwd"}, "parameter_not_supported", "$ref"),
        ({"$ref": "#/$defs/none"}, "invalid_parameter", "$ref"),
        ({"examples": [{"a": 1}], "$ref": "#/examples/0"}, "invalid_parameter", "$ref"),
        ({"type": "string", "format": "nonsense"}, "parameter_not_supported", ""),
        ({"type": "string", "pattern": "(a"}, "parameter_not_supported", ""),
        ({"type": "string", "pattern": "(?=a)b"}, "parameter_not_supported", ""),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "parameter_not_supported", ""),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "parameter_not_supported", ""),
        ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, "parameter_not_supported", ""),
        ({"enum": []}, "parameter_not_supported", ""),
        ({"$ref": "#"}, "parameter_not_supported", ""),
        ({"properties": {"k" * 5000: {"type": "int"}}}, "invalid_parameter", None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_schema_that_cannot_be_kept_is_refused(
    demo: RunningServer, schema: Any, code: str, place: str | None
) -> None:
    response = demo.ask("hi", response_format=by_schema(schema))
    loc = None if place is None else f"{S}.{place}".removesuffix(".")
    assert_error(response, 422, code, loc)


@pytest.mark.parametrize("schema", ["{}", [], None, True, 1], ids=repr)
def test_a_schema_that_is_none_is_refused(demo: RunningServer, schema: Any) -> None:
    assert_error(demo.ask("hi", response_format=by_schema(schema)), 422, "invalid_parameter", S)


@pytest.mark.parametrize(
    ("form", "loc"),
    [
        ({"type": "json_schema"}, "response_format"),
        ({"type": "json_object", "json_schema": {"name": "a", "schema": {}}}, "response_format"),
        (
            {"type": "json_schema", "json_schema": {"schema": {}}},
            "response_format.json_schema.name",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
            "response_format.json_schema.name",
        ),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, S),
    ],
    ids=str,
)
def test_a_form_that_is_incomplete_is_refused(demo: RunningServer, form: Any, loc: str) -> None:
    assert_error(demo.ask("hi", response_format=form), 422, "invalid_parameter", loc)


def nested(depth: int) -> Any:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


# Small or large, but nothing that a server should work on for long.
MONSTERS = {
    "deep": nested(500),
    "long": {"enum": ["x" * 70_000]},
    "many values": {"enum": list(range(100_000))},
    "many properties": {"properties": {f"p{i}": {} for i in range(1001)}},
    "many patterns": {"type": "string", "allOf": [{"pattern": f"a{i}"} for i in range(200)]},
    "a large multiple": {"type": "integer", "multipleOf": 999983},
    "combinations": {
        "allOf": [{"anyOf": [an_object(**{f"p{i}_{j}": {}}) for j in range(9)]} for i in range(9)]
    },
}


@pytest.mark.parametrize("name", MONSTERS)
def test_a_monster_is_refused_and_others_are_answered_meanwhile(
    demo: RunningServer, name: str
) -> None:
    results = []
    asking = threading.Thread(
        target=lambda: results.append(demo.ask("hi", response_format=by_schema(MONSTERS[name])))
    )
    asking.start()
    while asking.is_alive():
        assert demo.get("/health/live").status_code == 200
    asking.join()
    assert_error(results[0], 422)
    jsonschema.validate(json.loads(answer(demo, response_format=by_schema(SMALL))), SMALL)
    assert_well(demo)


@pytest.mark.parametrize(
    ("parameters", "loc"),
    [
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_regex": "(?=a)b"}, "guided_regex"),
        ({"guided_regex": "(" * 1000}, "guided_regex"),
        ({"guided_regex": "a" * 4097}, "guided_regex"),
        ({"guided_regex": 5}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": "yes"}, "guided_choice"),
        ({"guided_choice": [1]}, "guided_choice.0"),
        ({"guided_choice": ["x" * 70_000]}, "guided_choice"),
        ({"guided_choice": ["x"] * 1001}, "guided_choice"),
        ({"guided_choice": ["x"], "guided_regex": "x"}, "guided_choice"),
        ({"guided_regex": "x", "response_format": "json_object"}, "guided_regex"),
        ({"guided_regex": "x", "stop": "y"}, "stop"),
        ({"response_format": "json_object", "stop": ["y"]}, "stop"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_does_not_go_is_refused(
    demo: RunningServer, parameters: dict[str, Any], loc: str
) -> None:
    body = {"messages": [user("hi")]} | parameters
    response = demo.post(body, extra_parameters="pass-through")
    assert_error(response, 422, "invalid_parameter", loc)


def test_after_a_bad_schema_a_good_one_is_kept_as_before(demo: RunningServer) -> None:
    """A server elsewhere died of the second request."""
    form = by_schema(SMALL)
    before = demo.text("hi", response_format=form, max_tokens=100)
    for schema in ({"type": "string", "pattern": "(a"}, {"type": "int"}, {"$ref": "#"}):
        assert demo.ask("hi", response_format=by_schema(schema)).status_code == 422
    assert demo.text("hi", response_format=form, max_tokens=100) == before
    assert_well(demo)


def test_who_leaves_while_a_grammar_is_compiled_costs_no_place(demo: RunningServer) -> None:
    form = by_schema({"type": "integer", "multipleOf": 999979})
    body = {"messages": [user("hi")], "response_format": form}
    with demo.client(timeout=0.1) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/chat/completions", json=body)
    assert_well(demo)
    assert answer(demo, guided_choice=["yes"]) == "yes"
