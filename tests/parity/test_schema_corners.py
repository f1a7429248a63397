"""Odd corners of JSON Schema: whatever the masks allow, `jsonschema` finds valid. No model: the
words are drawn at random, in favour of what comes to an end."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from scoring.grammar import json_grammar
from scoring.grammar_mask import GrammarMask, GrammarTokenizer
from server.json_schema import check_schema

ENDS = frozenset({2, 32000, 32001, 32007})
VOCAB_SIZE, NUM_WALKS, MAX_TOKENS = 32064, 12, 300
SHORT = {"type": "string", "maxLength": 3}
INTEGER: dict[str, Any] = {"type": "integer"}

SCHEMAS: list[dict[str, Any]] = [
    {},
    {"minLength": 1, "maximum": 10, "minItems": 1, "required": ["a"]},
    {"patternProperties": {"^a": INTEGER}, "additionalProperties": SHORT, "type": "object"},
    {"properties": {"a": INTEGER, "ab": SHORT}, "patternProperties": {"^b": {"type": "boolean"}}},
    {"type": "object", "properties": {"a": INTEGER}, "additionalProperties": SHORT},
    {"type": "object", "properties": {'a"': SHORT, "b\\": SHORT}, "additionalProperties": INTEGER},
    {"type": "object", "properties": {"ä": INTEGER}, "additionalProperties": SHORT},
    {"type": "object", "properties": {"a": False}, "additionalProperties": SHORT},
    {"type": "object", "patternProperties": {"^[ab]+$": SHORT}, "additionalProperties": INTEGER},
    {"type": "object", "additionalProperties": INTEGER, "maxProperties": 2, "minProperties": 1},
    {"type": "object", "required": ["a", "b"], "minProperties": 2, "additionalProperties": SHORT},
    {"type": "object", "properties": {"a": INTEGER}, "required": ["b"]},
    {"type": "object", "properties": {"a": INTEGER}, "anyOf": [{"required": [k]} for k in "ab"]},
    {
        "type": "object",
        "anyOf": [
            {"properties": {"a": INTEGER}},
            {"properties": {"b": INTEGER}, "required": ["b"]},
        ],
    },
    {"type": "object", "allOf": [{"required": ["a"]}, {"additionalProperties": {"maxLength": 1}}]},
    {"type": ["object", "null"], "properties": {"a": SHORT}, "additionalProperties": False},
    {"type": ["string", "integer"], "enum": ["a", 1, 2.5]},
    {"enum": [1, True, None, "1", [1], {"a": 1}]},
    {"const": {"b": 1, "a": [1, {"c": None}]}},
    {"type": "integer", "minimum": -5.5, "maximum": 5.5},
    {"type": "number", "exclusiveMinimum": -1, "maximum": 0},
    {"type": "number", "minimum": -0.001, "maximum": 12345.678},
    {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": -3}]},
    {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]},
    {"type": "array", "prefixItems": [INTEGER, SHORT]},
    {"type": "array", "prefixItems": [INTEGER], "items": {"type": "null"}, "maxItems": 3},
    {"type": "array", "prefixItems": [False]},
    {
        "type": "array",
        "allOf": [{"items": INTEGER}, {"maxItems": 2}, {"prefixItems": [{"minimum": 5}]}],
    },
    {"type": "string", "pattern": "a", "minLength": 3, "maxLength": 4},
    {"type": "string", "pattern": "^[^a]*$", "maxLength": 5},
    {"type": "string", "pattern": '^(?:["\\\\/]){2}$'},
    {"type": "string", "pattern": "^\\n?x$"},
    {"type": "string", "format": "date", "pattern": "^2"},
    {"oneOf": [INTEGER, {"type": "string", "maxLength": 2}]},
    {"$ref": "#/$defs/a", "maximum": 4, "$defs": {"a": {"type": "integer", "minimum": 0}}},
    {
        "definitions": {"x y": {"type": "null"}, "a%b": {"type": "boolean"}},
        "anyOf": [{"$ref": "#/definitions/x%20y"}, {"$ref": "#/definitions/a%25b"}],
    },
]


@pytest.fixture(scope="module")
def grammars(tiny) -> GrammarTokenizer:
    return GrammarTokenizer(tiny / "tokenizer.json", ENDS, VOCAB_SIZE)


@pytest.fixture(scope="module")
def weights(tokenizer) -> np.ndarray:
    """How often to draw each token."""
    weights = np.ones(VOCAB_SIZE)
    for token_id in range(VOCAB_SIZE):
        piece = tokenizer.convert_ids_to_tokens(token_id) or ""
        if len(piece) <= 2:
            weights[token_id] = 10
        if piece in {*"ab120-.e\\n[{,", "▁a"}:
            weights[token_id] = 80
        if any(character in piece for character in '"}]'):
            weights[token_id] = 60
    weights[sorted(ENDS)] = 300
    return weights


def random_text(mask: GrammarMask, weights: np.ndarray, tokenizer, seed: int) -> str | None:
    """None where no end came."""
    random = np.random.default_rng(seed)
    bits, said = np.zeros((1, VOCAB_SIZE // 32), dtype=np.int32), []
    while len(said) < MAX_TOKENS:
        mask.fill(bits, 0)
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
        assert allowed.size
        token_id = int(random.choice(allowed, p=weights[allowed] / weights[allowed].sum()))
        if token_id in ENDS:
            return str(tokenizer.backend_tokenizer.decode(said, skip_special_tokens=True))
        mask.accept(token_id)
        said.append(token_id)
    return None


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:70])
def test_whatever_the_masks_allow_is_valid(grammars, tokenizer, weights, schema):
    check_schema(schema, ("schema",))
    grammar = json_grammar(schema)
    texts = [
        random_text(grammars.compile(grammar), weights, tokenizer, seed)
        for seed in range(NUM_WALKS)
    ]

    whole = [text for text in texts if text is not None]
    assert whole, "no walk came to an end"
    for text in whole:
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)
