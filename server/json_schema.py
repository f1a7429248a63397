"""A caller's JSON schema, checked before anything is made of it: its size, and all its keywords.

A keyword that is not enforced would be a promise that nobody keeps, so one that is not known is
refused, too: `maxlength` is a slip of the pen, and JSON Schema's own rule, to pass over it, would
make a schema of it that allows more. What is allowed here may still be beyond llguidance; it says
so itself when it compiles the schema.
"""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from .errors import APIError, InvalidRequestError, NotSupportedError

MAX_BYTES, MAX_DEPTH, MAX_PROPERTIES, MAX_COUNT = 1 << 16, 64, 1000, 100_000

_MAX_SHOWN_NAME = 64
_Loc = tuple[str, ...]
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) and value else [value]
    return all(isinstance(name, str) and name in _TYPES for name in names)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _is_map_of_schemas(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_string, value))


def _is_anything(_: Any) -> bool:
    return True


_Check = tuple[Callable[[Any], bool], str]
_SCHEMA: _Check = (_is_schema, "a schema")
_SCHEMAS: _Check = (_are_schemas, "a list of schemas, at least one")
_SCHEMA_MAP: _Check = (_is_map_of_schemas, "an object whose values are schemas")
_NUMBER: _Check = (_is_number, "a number")
_COUNT: _Check = (_is_count, f"a whole number, 0 … {MAX_COUNT}")
_STRING: _Check = (_is_string, "a string")
_ANYTHING: _Check = (_is_anything, "")
_KEYWORDS: dict[str, _Check] = {
    "type": (_is_type, f"one of {', '.join(_TYPES)}, or a list of them"),
    "enum": (_is_list, "a list"),
    "const": _ANYTHING,
    "anyOf": _SCHEMAS,
    "oneOf": _SCHEMAS,
    "allOf": _SCHEMAS,
    "$ref": _STRING,
    "$defs": _SCHEMA_MAP,
    "definitions": _SCHEMA_MAP,
    "properties": _SCHEMA_MAP,
    "patternProperties": _SCHEMA_MAP,
    "additionalProperties": _SCHEMA,
    "required": (_are_strings, "a list of strings"),
    "minProperties": _COUNT,
    "maxProperties": _COUNT,
    "items": _SCHEMA,
    "prefixItems": _SCHEMAS,
    "minItems": _COUNT,
    "maxItems": _COUNT,
    "minLength": _COUNT,
    "maxLength": _COUNT,
    "pattern": _STRING,
    "format": _STRING,
    "minimum": _NUMBER,
    "maximum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "exclusiveMaximum": _NUMBER,
    "multipleOf": _NUMBER,
}
# They promise nothing. discriminator: OpenAPI's, which pydantic puts beside oneOf.
_ANNOTATIONS = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("contentEncoding", "contentMediaType", "$schema", "$id", "$comment", "discriminator"),
}


def check_schema(schema: dict[str, Any], loc: _Loc) -> None:
    """Raise InvalidRequestError or NotSupportedError, naming the place. loc: the schema's own."""
    _check_size(schema, loc)
    places, num_properties = set(), 0
    for place, subschema in _subschemas(schema, loc):
        places.add(place)
        if isinstance(subschema, dict):
            num_properties += len(subschema.get("properties", ()))
            _check_keywords(subschema, place)
    if num_properties > MAX_PROPERTIES:
        raise InvalidRequestError(
            f"the schema has {num_properties} properties; {MAX_PROPERTIES} are allowed", loc
        )
    for place, subschema in _subschemas(schema, loc):
        if isinstance(subschema, dict) and "$ref" in subschema:
            _check_ref(subschema["$ref"], places, loc, (*place, "$ref"))


def _check_size(schema: dict[str, Any], loc: _Loc) -> None:
    """Of the schema as JSON, roughly; ends where it is too large."""
    num_bytes, left = 0, [(schema, 1)]
    while left:
        value, depth = left.pop()
        if depth > MAX_DEPTH:
            raise InvalidRequestError(
                f"the schema is nested more than {MAX_DEPTH} levels deep", loc
            )
        num_bytes += 2 + (len(value.encode()) if isinstance(value, str) else 2)
        if isinstance(value, dict):
            num_bytes += sum(len(key.encode()) + 4 for key in value)
            left += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            left += [(item, depth + 1) for item in value]
        if num_bytes > MAX_BYTES:
            raise InvalidRequestError(
                f"the schema is larger than the {MAX_BYTES >> 10} KiB allowed", loc
            )


def _subschemas(schema: Any, place: _Loc) -> Iterator[tuple[_Loc, Any]]:
    """The schema and all within it, each with its place."""
    yield place, schema
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        check, at = _KEYWORDS.get(keyword), (*place, keyword)
        if check is _SCHEMA:
            yield from _subschemas(value, at)
        elif check is _SCHEMA_MAP and isinstance(value, dict):
            for name, subschema in value.items():
                yield from _subschemas(subschema, (*at, name))
        elif check is _SCHEMAS and isinstance(value, list):
            for index, subschema in enumerate(value):
                yield from _subschemas(subschema, (*at, str(index)))


def _check_keywords(schema: dict[str, Any], place: _Loc) -> None:
    for keyword, value in schema.items():
        check = _KEYWORDS.get(keyword)
        if check is not None:
            holds, wanted = check
            if not holds(value):
                raise _refusal(InvalidRequestError, f"must be {wanted}", (*place, keyword), value)
        elif keyword not in _ANNOTATIONS and not _is_extension(keyword):
            raise _refusal(NotSupportedError, "is not a supported keyword", (*place, keyword))
    # The grammar does not keep keys that the schema does not name from coming twice.
    least = schema.get("minProperties", 0)
    if least > max(1, len(set(schema.get("required", ())))):
        raise _refusal(
            NotSupportedError,
            "is supported beyond 1 only where required names as many properties",
            (*place, "minProperties"),
            least,
        )


def _is_extension(keyword: str) -> bool:
    return keyword.startswith("x-") and keyword != "x-guidance"


def _check_ref(ref: str, places: set[_Loc], loc: _Loc, at: _Loc) -> None:
    """It must lead to a schema that has been checked: within this one."""
    steps = unquote(ref).split("/")
    pointer = tuple(step.replace("~1", "/").replace("~0", "~") for step in steps[1:])
    if steps[0] != "#":
        raise _refusal(NotSupportedError, "must begin with '#': nothing is fetched", at, ref)
    if (*loc, *pointer) not in places:
        raise _refusal(InvalidRequestError, "leads to no schema", at, ref)


def _refusal(kind: type[APIError], what: str, place: _Loc, value: Any = None) -> APIError:
    """An error that begins with the place, whose names are the caller's and of any length."""
    shown = tuple(step[:_MAX_SHOWN_NAME] for step in place)
    return kind(f"{'.'.join(shown[1:])} {what}", shown, value)
