"""The published how-to, whose calls must work: its code blocks, as they stand in seed.md."""

import re
from pathlib import Path

_PIVOT = re.compile(r'::: zone pivot="programming-language-(\w+)"\n(.*?)\n::: zone-end', re.DOTALL)
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(seed: Path, language: str, kind: str) -> list[str]:
    """The blocks of one kind, ```json say, in one language's part of the page."""
    parts = {found[1]: found[2] for found in _PIVOT.finditer(seed.read_text(encoding="utf-8"))}
    return [found[2] for found in _BLOCK.finditer(parts[language]) if found[1] == kind]
