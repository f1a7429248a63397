"""The table of promises names tests that are there."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TABLE = TESTS / "http" / "README.md"
_NAMED = re.compile(r"`((?:\w+/)?test_\w+\.py)::(test_\w+)`")


def _tests_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_in_the_table_of_promises_is_there() -> None:
    named = _NAMED.findall(TABLE.read_text(encoding="utf-8"))
    assert len(named) > 80
    for path, name in named:
        file = TESTS / path if "/" in path else TESTS / "http" / path
        assert name in _tests_in(file), f"{path}::{name}"


_CATALOGUE = {"A": 13, "B": 14, "C": 9, "D": 16, "E": 12, "F": 7, "G": 8, "H": 9, "I": 12, "J": 4}
_CHECKLIST = {*map(str, range(1, 36))}


def _entries() -> dict[str, str]:
    """What stands beside each point and row: the names of tests, or a reason."""
    entries = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        row = re.match(r"\| ([A-K]?\d+(?:, [A-K]?\d+)*) [^|]*\| (.*) \|$", line)
        if row:
            entries.update(dict.fromkeys(row[1].split(", "), row[2]))
    return entries


def test_every_point_of_the_checklist_has_a_row() -> None:
    assert not _CHECKLIST - _entries().keys()


def test_every_row_of_the_catalogue_has_an_entry() -> None:
    rows = {f"{part}{n}" for part, last in _CATALOGUE.items() for n in range(1, last + 1)}
    assert not rows - _entries().keys()


def test_every_entry_names_a_test_or_says_why_there_is_none() -> None:
    for row, entry in _entries().items():
        assert _NAMED.search(entry) or len(entry.split()) > 5, row
