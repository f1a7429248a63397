"""What an answer may be: a grammar, as text that travels, in llguidance's own format.

The decoder drops one space at the start of a text (the tokenizer puts one there), so what a model
says is a space, then the answer. Each grammar here asks for that space: the text that the caller
gets is exactly what the grammar says, and it begins with the tokens that the model was trained to
begin with ("▁{" is one, "▁yes" another).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llguidance import regex_to_lark

# JSON as most people write it, on one line. Whitespace without end is what a model at a loss says
# for ever. Every character has but one spelling: a key spelt with \u escapes would slip past the
# schema of the property that it names, and two escapes are one character of a maxLength.
_JSON = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "json_allowed_escapes": 'nrbtf\\"',
    "lenient": False,
    "coerce_one_of": False,
}


@dataclass(frozen=True)
class Grammar:
    """text: in llguidance's JSON format."""

    text: str


def json_grammar(schema: Mapping[str, Any]) -> Grammar:
    """JSON that the schema allows."""
    return _after_a_space({"json_schema": {**schema, "x-guidance": _JSON}})


def regex_grammar(pattern: str) -> Grammar:
    """Text that the pattern, in Rust's syntax, matches from its first to its last character."""
    return _after_a_space({"lark_grammar": f"start: /{regex_to_lark(pattern, use_ascii='')}/"})


def choice_grammar(choices: Iterable[str]) -> Grammar:
    """One of the texts."""
    quoted = (json.dumps(choice, ensure_ascii=False) for choice in choices)
    return _after_a_space({"lark_grammar": "start: " + " | ".join(quoted)})


def _after_a_space(answer: dict[str, Any]) -> Grammar:
    start = {"lark_grammar": 'start: " " @answer'}
    text = json.dumps({"grammars": [start, {"name": "answer", **answer}]}, ensure_ascii=False)
    return Grammar(text)
