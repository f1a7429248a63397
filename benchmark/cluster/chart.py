"""The study as a picture: throughput over linear, and prefix hits, by the number of replicas; by
matplotlib, the extra `bench`."""

from pathlib import Path

from .study import GIANT, OURS, Point

_SIZE_INCHES = (9.2, 3.8)
_NAMES = {OURS: "prefix routing (ours)", GIANT: "one giant replica"}
# The colour-blind tell them apart, and the markers help.
_LOOKS = {
    OURS: ("#1f6feb", "o", "-"),
    GIANT: ("#57606a", "", "--"),
    "least loaded": ("#d1570a", "s", "-"),
    "better of two": ("#8250df", "^", "-"),
    "round robin": ("#1a7f37", "v", "-"),
}


def draw(points: list[Point], title: str, file: Path) -> None:
    """The file's ending says the format. Raises ImportError without matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cluster"}):
        drawing = Figure(figsize=_SIZE_INCHES, layout="constrained")
        linear, hits = drawing.subplots(1, 2)
        numbers = sorted({point.num_replicas for point in points})
        for axes, heading in (
            (linear, "Throughput, of N × one replica's, %"),
            (hits, "Prompt tokens found in the cache, %"),
        ):
            axes.set_title(heading, loc="left", fontsize=10)
            axes.set_xlabel("replicas")
            axes.set_xscale("log", base=2)
            axes.set_xticks(numbers, [str(number) for number in numbers], minor=False)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        for policy, (colour, marker, style) in _LOOKS.items():
            mine = sorted(
                (point for point in points if point.policy == policy),
                key=lambda point: point.num_replicas,
            )
            if not mine:
                continue
            x = [point.num_replicas for point in mine]
            look = {"color": colour, "marker": marker, "linestyle": style, "markersize": 4}
            label = _NAMES.get(policy, policy)
            hits.plot(x, [100 * point.hits for point in mine], label=label, **look)
            if policy != GIANT:
                linear.plot(x, [100 * point.linear for point in mine], label=label, **look)
        linear.axhline(95, color="#57606a", linestyle=":", linewidth=1)
        for axes in (linear, hits):
            axes.set_ylim(bottom=0)
        hits.legend(frameon=False, fontsize=8)
        drawing.suptitle(title, fontsize=9, x=0.01, ha="left")
        drawing.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)
