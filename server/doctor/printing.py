"""Findings for a reader on a terminal, for a log, and for a program."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from .finding import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def print_findings(findings: Iterable[Finding], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    elif sys.stdout.isatty():
        _print_table(findings)
    else:
        for finding in findings:
            sys.stdout.write(f"{finding.status:8}{finding.name:11}{finding.text}\n")


def _print_table(findings: Iterable[Finding]) -> None:
    table = Table(show_header=False, show_lines=False)
    for finding in findings:
        style = _COLOURS[finding.status]
        table.add_row(f"[{style}]{finding.status}[/]", finding.name, _escaped(finding.text))
    Console().print(table)


def _escaped(text: str) -> str:
    """Brackets in a text are no markup."""
    return text.replace("[", "\\[")
