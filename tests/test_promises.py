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


def test_every_point_of_the_checklist_that_is_about_the_api_has_a_row() -> None:
    rows = re.findall(r"^\| (\d+(?:, \d+)*) ", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    points = {int(point) for row in rows for point in row.split(", ")}
    assert points >= set(range(1, 28))
