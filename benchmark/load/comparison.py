"""Two measurements beside each other, load by load."""

from pathlib import Path

from .document import Document, DocumentError
from .tables import Figure, Table, field, load_name, middle, number, percentile

_FIGURES: dict[str, Figure] = {
    "output tokens/s": field("output_tokens_per_s"),
    "requests/s": field("requests_per_s"),
    "goodput/s": field("goodput_per_s"),
    "TTFT p50, ms": percentile("ttft_ms", "p50"),
    "TTFT p99, ms": percentile("ttft_ms", "p99"),
    "ITL p50, ms": percentile("itl_ms", "p50"),
    "TPOT p50, ms": percentile("tpot_ms", "p50"),
    "TPOT p99, ms": percentile("tpot_ms", "p99"),
    "E2E p50, ms": percentile("e2e_ms", "p50"),
}
_COMPARABLE = ("mix", "prompt_tokens", "max_tokens", "turns", "image_px")


def labels(files: tuple[Path, Path]) -> tuple[str, str]:
    """Short names, told apart by their folders where the files are called alike, by the paths as
    they were given where the folders are, too, and by numbers where a file is given twice."""
    first, second = files
    for name in (_stem, _folder_and_stem, str):
        if name(first) != name(second):
            return name(first), name(second)
    return f"{first} (1)", f"{second} (2)"


def _stem(file: Path) -> str:
    return file.stem


def _folder_and_stem(file: Path) -> str:
    return str(Path(file.parent.name, file.stem))


def comparison(first: Document, second: Document, names: tuple[str, str]) -> Table:
    """Medians over the rounds of the loads that both have. Raises DocumentError if none is."""
    levels = {(level["loop"], level["value"]): level for level in second["levels"]}
    rows: list[tuple[str, ...]] = []
    for level in first["levels"]:
        other = levels.get((level["loop"], level["value"]))
        if other is None:
            continue
        for title, figure in _FIGURES.items():
            a, b = middle(level, figure), middle(other, figure)
            if a is None and b is None:
                continue
            ratio = number(b / a) if a and b is not None else number(None)
            rows.append((load_name(level), title, number(a), number(b), ratio))
    if not rows:
        raise DocumentError("the two files have no load in common")
    return Table("Medians and ratios", ("load", "figure", *names, "ratio"), rows)


def differences(first: Document, second: Document) -> list[str]:
    """What was asked otherwise, so that the figures do not compare."""
    return [
        f"Asked otherwise: {name} is {first['workload'][name]} and {second['workload'][name]}."
        for name in _COMPARABLE
        if first["workload"][name] != second["workload"][name]
    ]
