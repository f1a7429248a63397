"""Fifty schemas as callers write them: nested, enums, arrays, numbers, unicode, references.

Long strings and endless arrays are bounded: random weights would go on until max_tokens.
"""

from typing import Any

Schema = dict[str, Any]


def an_object(**properties: Any) -> Schema:
    """All of them required, nothing else allowed."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def an_array(items: Any, *, least: int = 0, most: int = 3) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def a_string(most: int = 12, least: int = 0) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": most}


def an_integer(minimum: int = -1000, maximum: int = 1000) -> Schema:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


BOOL: Schema = {"type": "boolean"}
CENTS: Schema = {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 99995}
INVOICE = an_object(
    number={"type": "string", "pattern": "^INV-[0-9]{4}$"},
    date={"type": "string", "format": "date"},
    currency={"enum": ["EUR", "USD", "CHF", "JPY"]},
    lines=an_array(an_object(text=a_string(), quantity=an_integer(1, 99), cents=CENTS), least=1),
    paid=BOOL,
)
PERSON = an_object(name=a_string(20, 1), age=an_integer(0, 130), email={"type": ["string", "null"]})
PERSON["properties"]["email"] |= {"maxLength": 20}
TREE: Schema = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": an_integer(0, 9),
                "children": {
                    "type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2,
                },
            },
            "required": ["value", "children"],
            "additionalProperties": False,
        },
        "leaf": an_object(value=an_integer(0, 9)),
    },
    "$ref": "#/$defs/node",
}  # fmt: skip
LINKED_LIST: Schema = {
    "type": "object",
    "properties": {
        "value": an_integer(0, 9),
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
    },
    "required": ["value", "next"],
    "additionalProperties": False,
}
SHAPES: Schema = {
    "oneOf": [
        an_object(kind={"const": "circle"}, radius=an_integer(1, 50)),
        an_object(kind={"const": "square"}, side=an_integer(1, 50)),
        an_object(kind={"const": "line"}, points=an_array(an_integer(), least=2, most=4)),
    ]
}

SCHEMAS: dict[str, Schema] = {
    # scalars
    "true": {"const": True},
    "null": {"type": "null"},
    "boolean": BOOL,
    "a digit": an_integer(0, 9),
    "a negative integer": an_integer(-99999, -10),
    "exclusive bounds": {"type": "integer", "exclusiveMinimum": 6, "exclusiveMaximum": 8},
    "a multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    "a number in words": {"enum": [1, 1.5, -2e10, 0]},
    "a price": {"type": "number", "minimum": 0, "maximum": 1000, "multipleOf": 0.5},
    "a number or nothing": {"anyOf": [an_integer(), {"type": "null"}]},
    # strings
    "a short string": a_string(8),
    "three characters at least": a_string(6, 3),
    "exactly five characters": a_string(5, 5),
    "a date": {"type": "string", "format": "date"},
    "a moment": {"type": "string", "format": "date-time", "maxLength": 40},
    "a uuid": {"type": "string", "format": "uuid"},
    "an address of four bytes": {"type": "string", "format": "ipv4"},
    "a pattern": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{2}( [0-9]{4}){2}$"},
    "a pattern of alternatives": {"type": "string", "pattern": "^(red|green|blue)-(dark|light)$"},
    "a pattern beyond ASCII": {"type": "string", "pattern": "^[à-ÿα-ω一-三]{1,8}$"},
    # unicode and what must be escaped
    "words in many scripts": {"enum": ["straße", "日本語", "Ελλάδα", "العربية", "🦙🚀", "naïve"]},
    "what needs escapes": {"enum": ['a "quote"', "back\\slash", "line\nbreak", "tab\t", "\u0001"]},
    "spaces around": {"enum": [" leading", "trailing ", "  "]},
    "line separators": {"const": "\u2028 and \u2029"},
    "what looks like control tokens": {"enum": ["<|end|>", "<|image_1|>", "</s>", "<|user|>"]},
    "keys in many scripts": an_object(größe=an_integer(), 名前=a_string(5), **{"🔑 key": BOOL}),
    "keys that need escapes": an_object(**{'a"b': BOOL, "c\\d": BOOL, "e\nf": BOOL, "": BOOL}),
    # objects
    "an empty object": an_object(),
    "a person": PERSON,
    "an invoice": INVOICE,
    "optional properties": {
        "type": "object",
        "properties": {"a": an_integer(), "b": BOOL, "c": a_string(4)},
        "additionalProperties": False,
    },
    "one required of three": {
        "type": "object",
        "properties": {"a": an_integer(), "b": BOOL, "c": a_string(4)},
        "required": ["b"],
        "additionalProperties": False,
    },
    "nested five deep": an_object(a=an_object(b=an_object(c=an_object(d=an_object(e=BOOL))))),
    "a map with few keys": {
        "type": "object",
        "patternProperties": {"^[a-z]{1,3}$": an_integer(0, 99)},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    "a card with annotations": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Card",
        "description": "As pydantic writes it.",
        **an_object(rank={"type": "string", "enum": ["ace", "king"], "title": "Rank"}),
    },
    "other keys of one type": {
        "type": "object",
        "properties": {"total": an_integer(0, 9)},
        "required": ["total"],
        "additionalProperties": an_integer(0, 9),
        "maxProperties": 2,
    },
    # arrays
    "an empty array": an_array(BOOL, most=0),
    "integers": an_array(an_integer(), least=1, most=6),
    "words": an_array(a_string(6, 1), least=2, most=4),
    "a tuple": {
        "type": "array",
        "prefixItems": [an_integer(), a_string(5), BOOL],
        "items": False,
        "minItems": 3,
    },
    "a matrix": an_array(an_array(an_integer(0, 1), least=3), least=3),
    "people": an_array(PERSON, least=1, most=2),
    "a mixture": an_array({"anyOf": [BOOL, an_integer(), a_string(3), {"type": "null"}]}),
    # references and combinations
    "a tree": TREE,
    "a linked list": LINKED_LIST,
    "shapes": SHAPES,
    "a list of shapes": an_array({"$defs": {"s": SHAPES}, **SHAPES}, least=1, most=2),
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": an_integer()}, "required": ["a"]},
            {"properties": {"b": BOOL}, "required": ["b"]},
        ],
        "properties": {"a": True, "b": True},
        "additionalProperties": False,
    },
    "one definition in several places": {
        "$defs": {"point": an_object(x=an_integer(), y=an_integer())},
        **an_object(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"}),
    },
    "definitions that use each other": {
        "definitions": {
            "word": a_string(6),
            "pair/s~": {"type": "array", "prefixItems": [{"$ref": "#/definitions/word"}] * 2,
                        "items": False, "minItems": 2},
        },
        **an_object(pairs=an_array({"$ref": "#/definitions/pair~1s~0"}, most=2)),
    },
    "types in a list": an_object(value={"type": ["integer", "boolean", "null"], "minimum": 0,
                                        "maximum": 9}),
}  # fmt: skip
assert len(SCHEMAS) >= 50
