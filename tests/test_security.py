"""SECURITY.md tells the truth: the tests and the settings that it names are there."""

import re
from pathlib import Path

from server.settings import Settings

PROJECT = Path(__file__).resolve().parents[1]
_TEXT = (PROJECT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_that_it_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _TEXT)
    assert len(named) > 30
    missing = [
        (file, test)
        for file, test in named
        if f"def {test}(" not in (PROJECT / file).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_every_defence_names_a_test() -> None:
    table = _TEXT.partition("## What is defended")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows
    assert [row for row in rows if "`tests/" not in row] == []


def test_every_setting_that_it_names_exists() -> None:
    named = {name.replace("-", "_") for name in re.findall(r"`--([a-z-]+)", _TEXT)}
    assert named - set(Settings.model_fields) == set()
