"""The published how-to, whose calls must work: its code blocks, as they stand in seed.md; and what
docs/seed-samples.md says must be changed in them."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..http.running_server import PROJECT

CORRECTIONS = PROJECT / "docs" / "seed-samples.md"
_PIVOT = re.compile(r'::: zone pivot="programming-language-(\w+)"\n(.*?)\n::: zone-end', re.DOTALL)
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(r"^### (.+?)\n\n(.*?)(?=^### |\Z)", re.DOTALL | re.MULTILINE)
_DIFF = re.compile(r"^```diff\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Correction:
    """In the samples of `section`, old is replaced by new. The reason stands in the document."""

    section: str
    name: str
    reason: str
    old: str
    new: str


def blocks(seed: Path, language: str, kind: str) -> list[str]:
    """The blocks of one kind, ```json say, in one language's part of the page."""
    parts = {found[1]: found[2] for found in _PIVOT.finditer(seed.read_text(encoding="utf-8"))}
    return [found[2] for found in _BLOCK.finditer(parts[language]) if found[1] == kind]


def corrections(*sections: str) -> list[Correction]:
    """The corrections in these sections of the document; in all of them if none is named."""
    return [
        Correction(section, name, body.split("```")[0].strip(), _side(diff, "-"), _side(diff, "+"))
        for section, entries in _SECTION.findall(CORRECTIONS.read_text(encoding="utf-8"))
        if not sections or section in sections
        for name, body in _ENTRY.findall(entries)
        for diff in _DIFF.findall(body)
    ]


def corrected(samples: list[str], changes: list[Correction]) -> list[str]:
    """The samples with each change made, in the one place where it belongs."""
    for change in changes:
        places = [sample.count(change.old) for sample in samples]
        assert sum(places) == 1, f"{change.name}: its old text is in {sum(places)} places"
        samples = [sample.replace(change.old, change.new) for sample in samples]
    return samples


def _side(diff: str, sign: str) -> str:
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in (" ", sign))
