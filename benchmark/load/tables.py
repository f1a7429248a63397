"""The figures of a measurement as tables of text, for the terminal and the report alike.

Where a load was measured in several rounds, a figure is their median.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from .document import Document
from .run import Load

Figure = Callable[[dict[str, Any]], float | None]
NOTHING = "–"
_LATENCIES = {"TTFT": "ttft_ms", "ITL": "itl_ms", "TPOT": "tpot_ms", "E2E": "e2e_ms"}


@dataclass(frozen=True)
class Table:
    """The first column is text, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def load_name(level: dict[str, Any]) -> str:
    return str(Load(level["loop"], level["value"]))


def middle(level: dict[str, Any], figure: Figure) -> float | None:
    """The median over a load's rounds, of those that have the figure."""
    known = [value for found in level["rounds"] if (value := figure(found)) is not None]
    return median(known) if known else None


def percentile(name: str, which: str) -> Figure:
    return lambda found: found[name][which]


def field(name: str) -> Figure:
    return lambda found: found[name]


def fraction(name: str) -> Figure:
    return lambda found: found["of_limit"][name]


def number(value: float | None) -> str:
    """Three figures that matter."""
    if value is None:
        return NOTHING
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or not value else f"{value:.1e}"


def percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def tables(document: Document) -> list[Table]:
    """All of one measurement. in, out: a request's tokens."""
    return [_rates(document), _latencies(document), _limits(document), _overhead(document)]


def _rates(document: Document) -> Table:
    header = ("load", "requests", "errors", "req/s", "output tok/s", "good req/s", "in", "out")
    rows: list[tuple[str, ...]] = []
    for level in document["levels"]:
        num_requests = sum(found["num_requests"] for found in level["rounds"])
        num_whole = sum(found["num_whole"] for found in level["rounds"])
        values = [
            middle(level, field(name))
            for name in ("requests_per_s", "output_tokens_per_s", "goodput_per_s")
        ]
        lengths = [middle(level, field(name)) for name in ("prompt_tokens", "output_tokens")]
        rows.append(
            (
                load_name(level),
                str(num_requests),
                str(num_requests - num_whole),
                *map(number, values),
                *map(number, lengths),
            )
        )
    return Table("Rates", header, rows)


def _latencies(document: Document) -> Table:
    header = ("load", "latency, ms", "p50", "p90", "p99", "mean", "max")
    rows = [
        (
            load_name(level),
            title,
            *(number(middle(level, percentile(name, which))) for which in header[2:]),
        )
        for level in document["levels"]
        for title, name in _LATENCIES.items()
    ]
    return Table("Latencies", header, rows)


def _limits(document: Document) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            load_name(level),
            percent(middle(level, fraction("decode"))),
            percent(middle(level, fraction("prefill"))),
        )
        for level in document["levels"]
    ]
    return Table("Of the hardware's limit", ("load", "decode", "prefill"), rows)


def _overhead(document: Document) -> Table:
    header = ("load", "its CPU", "loop lag p50, ms", "p99", "max", "sent late p99, ms")
    rows: list[tuple[str, ...]] = []
    for level in document["levels"]:
        lags = [middle(level, percentile("lag_ms", which)) for which in ("p50", "p99", "max")]
        late = middle(level, percentile("late_ms", "p99")) if level["loop"] == "open" else None
        share = percent(middle(level, field("cpu_share")))
        rows.append((load_name(level), share, *map(number, lags), number(late)))
    return Table("The load generator itself", header, rows)


def remarks(document: Document) -> list[str]:
    """What must be known besides the tables, a sentence or so each."""
    said = []
    if document["was_interrupted"]:
        said.append("The run was interrupted: loads that were not finished are missing.")
    said += _errors(document)
    headroom = document["headroom"]
    if headroom:
        times = f"{headroom['headroom']:.0f} × the rate measured"
        said.append(
            f"Headroom: against a server that answers at once, the load generator reaches {times}."
            if headroom["is_enough"]
            else f"HEADROOM TOO SMALL: the load generator reaches only {times}, not 20 ×: "
            "its own cost is in the figures."
        )
    else:
        said.append("Headroom: not measured.")
    notes = [
        note
        for level in document["levels"]
        for found in level["rounds"]
        for note in found["of_limit"]["notes"]
    ]
    said += [f"Of the limit: {note}." for note in dict.fromkeys(notes)]
    if document["device_rates"]["bandwidth"]:
        said.append(f"The limit's rates: {document['device_rates']['source']}.")
    uncounted = sum(
        found["num_without_usage"] for level in document["levels"] for found in level["rounds"]
    )
    if uncounted:
        said.append(
            f"{uncounted} answers told no usage: their tokens are those asked for, where their "
            "length ended them, else their events."
        )
    return said


def _errors(document: Document) -> list[str]:
    said = []
    for level in document["levels"]:
        for found in level["rounds"]:
            for kind, count in found["errors"].items():
                detail = found["error_details"][kind]
                said.append(
                    f"{load_name(level)}: {count} × {kind}{f': {detail}' if detail else ''}"
                )
    return said
