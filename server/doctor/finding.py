"""One thing that was looked at, and what was found."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """failed: the server would not start, or not serve. warning: it would, but somebody may expect
    otherwise."""

    name: str
    status: Status
    text: str


def ok(name: str, text: str) -> Finding:
    return Finding(name, "ok", text)


def warning(name: str, text: str) -> Finding:
    return Finding(name, "warning", text)


def failed(name: str, text: str) -> Finding:
    return Finding(name, "failed", text)
