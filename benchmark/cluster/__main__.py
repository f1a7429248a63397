"""How routing scales, simulated: the router's real code over replicas replayed from step times.

    make bench-cluster
    python -m benchmark.cluster [--step-times FILE | --computed CARD] [--replicas 1,4,16,64]

Real are the ingresses' Fleets and their tables (server/ray/fleet.py, scoring/router.py), and each
replica's scheduler, block manager and queue bounds. Replayed are the steps: how long each takes by
what is in it, as benchmark.cluster.measure has found it on a machine. Simulated are users, time and
the network, of which only the reports' second and their delay matter. See study.py for what is
asked, trace.py for the chats.

Prints a table, and writes it as JSON and as a chart. A goal that is not met sets the exit status:
of our routing, for every number of replicas, 95 % of linear throughput, and prefix hits no more
than 5 % below the giant's.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from ..provenance import commit
from ..sizing import CARDS, Card
from .chart import draw
from .computed import computed_step_times
from .policies import POLICIES
from .replica import Sizes
from .step_times import StepTimes, StepTimesError, load_step_times
from .study import GIANT, OURS, Point, Study
from .trace import Habits

_MEASURED = Path(__file__).parent / "step_times" / "cpu-mid.json"
_CARDS = {card.name.partition(",")[0]: card for card in CARDS}
_LINEAR_GOAL, _HITS_GOAL = 0.95, 0.95


def main() -> None:
    options = _options()
    times = _step_times(options)
    start = time.perf_counter()
    sizes, habits = Sizes(cache_tokens=options.cache_tokens), Habits()
    study = Study(times, sizes, habits, options.seed)
    load = study.load
    print(
        f"each replica: {load.num_users} users, {load.seconds:.0f} s, of "
        f"which the first {load.warm_up_s:.0f} do not count; a cache of {sizes.cache_tokens:,}\n\n"
        "| replicas | routing | tokens/s | of linear | hits | busy | the idlest "
        "| first token, p50 | p99 |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    points: list[Point] = []
    for point in study.points(options.replicas, options.policies):
        points.append(point)
        print(_line(point), flush=True)
    found = {
        "step_times": times.source,
        "sizes": asdict(sizes),
        "habits": asdict(habits),
        "load": asdict(load),
        "seed": options.seed,
        "commit": commit(),
        "points": [asdict(point) for point in points],
    }
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(points, _origin(times), options.chart)
    missed = list(_missed(points))
    print(f"\n{time.perf_counter() - start:.0f} s; {options.json}, {options.chart}")
    for line in missed:
        print(line)
    sys.exit(1 if missed else 0)


def _step_times(options: argparse.Namespace) -> StepTimes:
    if options.computed is not None:
        return computed_step_times(options.computed)
    try:
        return load_step_times(options.step_times)
    except StepTimesError as error:
        sys.exit(str(error))


def _origin(times: StepTimes) -> str:
    source = times.source
    if "computed" in source:
        return f"simulated, with step times computed, not measured: {source['computed']}"
    return f"simulated, with step times measured on {source['device']}: {source['model']}"


def _line(point: Point) -> str:
    first, slow = point.first_token_s
    return (
        f"| {point.num_replicas} | {point.policy} | {point.tokens_per_s:,.1f} "
        f"| {point.linear:.1%} | {point.hits:.1%} | {point.busy:.1%} | {point.idlest:.1%} "
        f"| {first:.1f} s | {slow:.1f} s |"
    )


def _missed(points: list[Point]) -> list[str]:
    giants = {point.num_replicas: point for point in points if point.policy == GIANT}
    lines = []
    for point in points:
        if point.policy == OURS:
            giant = giants[point.num_replicas]
            if point.linear < _LINEAR_GOAL:
                lines.append(f"{point.num_replicas} replicas: {point.linear:.1%} of linear")
            if point.hits < _HITS_GOAL * giant.hits:
                lines.append(
                    f"{point.num_replicas} replicas: hits {point.hits:.1%}, "
                    f"the giant's {giant.hits:.1%}"
                )
    return lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--step-times", type=Path, default=_MEASURED, metavar="FILE")
    parser.add_argument(
        "--computed", type=_card, metavar="CARD",
        help=f"half of a card's limits instead: {', '.join(_CARDS)}",
    )  # fmt: skip
    parser.add_argument("--replicas", type=_numbers, default=[1, 4, 16, 64])
    parser.add_argument("--policies", type=_policies, default=list(POLICIES), metavar="NAMES")
    parser.add_argument("--cache-tokens", type=int, default=Sizes.cache_tokens)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("bench-cluster.json"), metavar="FILE")
    parser.add_argument("--chart", type=Path, default=Path("bench-cluster.svg"), metavar="FILE")
    return parser.parse_args()


def _card(name: str) -> Card:
    if name not in _CARDS:
        raise argparse.ArgumentTypeError(f"{name}: not among {', '.join(_CARDS)}")
    return _CARDS[name]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _policies(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(POLICIES)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: not among {', '.join(POLICIES)}"
        )
    return names


if __name__ == "__main__":
    main()
