"""What the checks find: rows of one table."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["measured", "skipped", "failed"]


@dataclass(frozen=True)
class Row:
    """One quantity of one subject.

    at_most, at_least: the bound that the value must keep; at most one of them is given. Where
    nothing was measured value is None and note says why: the check was skipped, since the machine
    or the code cannot have what it is about, or it failed.
    """

    check: str
    subject: str
    quantity: str
    value: float | None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    state: State = "measured"
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """None where there is nothing to hold."""
        if self.state != "measured":
            return False if self.state == "failed" else None
        if self.value is None or self.at_most is self.at_least is None:
            return None
        # Written so that NaN keeps no bound.
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def bound(self) -> str:
        if self.at_most is not None:
            return f"≤ {_number(self.at_most)}"
        return "" if self.at_least is None else f"≥ {_number(self.at_least)}"

    @property
    def verdict(self) -> str:
        if self.state != "measured":
            return f"{self.state.upper() if self.state == 'failed' else self.state}: {self.note}"
        words = {True: "holds", False: "DOES NOT HOLD", None: ""}[self.holds]
        return f"{words} ({self.note})" if words and self.note else words or self.note

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


def skipped(check: str, subject: str, why: str) -> Row:
    return Row(check, subject, "", None, state="skipped", note=why)


def failed(check: str, subject: str, why: str) -> Row:
    return Row(check, subject, "", None, state="failed", note=why)


def to_markdown(rows: list[Row]) -> str:
    """One table, aligned, that can be read as it is and pasted where Markdown is shown. A check and
    a subject are named where they begin."""
    cells = [["check", "subject", "quantity", "value", "bound", "verdict"]]
    before = ("", "")
    for row in rows:
        check = "" if row.check == before[0] else row.check
        subject = "" if (row.check, row.subject) == before else row.subject
        before = (row.check, row.subject)
        value = "" if row.value is None else f"{_number(row.value)} {row.unit}".strip()
        verdict = row.verdict.replace("|", "/").replace("\n", " ")
        cells.append([check, subject, row.quantity, value, row.bound, verdict])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    right = (3, 4)  # value and bound
    rule = ["-" * (w - 1) + ":" if i in right else "-" * w for i, w in enumerate(widths)]

    def line(parts: list[str]) -> str:
        padded = (
            part.rjust(width) if column in right else part.ljust(width)
            for column, (part, width) in enumerate(zip(parts, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, [cells[0], rule, *cells[1:]]))


def _number(value: float) -> str:
    """Three digits, whole numbers whole, tiny ones as 2.1e-05."""
    if math.isfinite(value) and (value == int(value) or abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.3g}"
