"""Measurements as curves over the load, a chart for each figure; by matplotlib, the extra `bench`.

Each chart is drawn once, and saved as a PNG and as SVG that stands in a page.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .document import Document
from .tables import Figure, field, fraction, middle, percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_SIZE_INCHES = (6.4, 3.8)
_DPI = 120
_COLOURS = ("#1f6feb", "#d1570a")  # of measurements; the colour-blind tell them apart, too
_STYLES = ("-", "--", ":")  # of the curves of one
_AXES = {"closed": "callers", "open": "arrivals per second"}
# By the chart's name: its title, and its curves. A chart without a known value is not drawn.
_CHARTS: dict[str, tuple[str, dict[str, Figure]]] = {
    "throughput": ("Output tokens per second", {"": field("output_tokens_per_s")}),
    "requests": (
        "Requests per second",
        {"all": field("requests_per_s"), "within the SLO": field("goodput_per_s")},
    ),
    **{
        name: (title, {which: percentile(f"{name}_ms", which) for which in ("p50", "p90", "p99")})
        for name, title in {
            "ttft": "Time to first token, ms",
            "itl": "Inter-token latency, ms",
            "tpot": "Time per output token, ms",
            "e2e": "End-to-end latency, ms",
        }.items()
    },
    "limit": (
        "Fraction of the hardware's limit",
        {"decode": fraction("decode"), "prefill": fraction("prefill")},
    ),
}


@dataclass(frozen=True)
class Chart:
    """name: of its file. svg: an element for a page."""

    name: str
    title: str
    svg: str
    png: bytes


def charts(documents: dict[str, Document]) -> list[Chart]:
    """documents: by their labels; one, or two in the same charts. Raises ImportError without
    matplotlib."""
    return [
        chart
        for loop in _AXES
        for name in _CHARTS
        if (chart := _chart(loop, name, documents)) is not None
    ]


def save_pngs(drawn: list[Chart], directory: Path) -> None:
    for chart in drawn:
        (directory / f"{chart.name}.png").write_bytes(chart.png)


def _chart(loop: str, name: str, documents: dict[str, Document]) -> Chart | None:
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawing

    title, curves = _CHARTS[name]
    # Text stays text: smaller, and readable by a screen reader. The salt keeps a page's charts
    # from sharing names.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{loop}-{name}"}):
        drawing = Drawing(figsize=_SIZE_INCHES)
        drawing.subplots_adjust(left=0.1, right=0.97, top=0.91, bottom=0.14)
        axes = drawing.subplots()
        loads: set[float] = set()
        for (label, document), colour in zip(documents.items(), _COLOURS, strict=False):
            for (curve, figure), style in zip(curves.items(), _STYLES, strict=False):
                called = " ".join(filter(None, [label if len(documents) > 1 else "", curve]))
                points = _points(document, loop, figure)
                _draw(axes, points, style, colour, called)
                loads.update(x for x, _ in points)
        if not loads:
            return None
        _label(axes, loop, title, sorted(loads))
        return Chart(f"{loop}-{name}", title, _svg(drawing), _png(drawing))


def _points(document: Document, loop: str, figure: Figure) -> list[tuple[float, float]]:
    levels = (level for level in document["levels"] if level["loop"] == loop)
    found = ((level["value"], middle(level, figure)) for level in levels)
    return sorted((x, y) for x, y in found if y is not None)


def _draw(
    axes: "Axes", points: list[tuple[float, float]], style: str, colour: str, label: str
) -> None:
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, style, color=colour, marker="o", markersize=4, label=label or None)


def _label(axes: "Axes", loop: str, title: str, loads: list[float]) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(_AXES[loop])
    axes.set_ylim(bottom=0)
    if loop == "closed":
        axes.set_xscale("log", base=2)
    axes.set_xticks(loads, [f"{load:g}" for load in loads], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if any(not str(line.get_label()).startswith("_") for line in axes.lines):
        axes.legend(frameon=False, fontsize=9)


def _svg(drawing: "Drawing") -> str:
    """Without the prologue and the metadata, which name addresses."""
    file = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    drawing.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :].strip()


def _png(drawing: "Drawing") -> bytes:
    file = io.BytesIO()
    drawing.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()
