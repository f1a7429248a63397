"""The options of `phi3v bench`: what they are called, what they take, and what help says."""

import json
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from .endpoint import ApiStyle
from .summary import Slo
from .workload import Mix

_KEY_VARIABLE = "BENCH_API_KEY"
_TARGET, _LOAD, _ASKED, _LIMIT, _RESULT = (
    "What is measured",
    "Load",
    "What is asked",
    "The hardware's limit",
    "Result",
)


@dataclass(frozen=True)
class Sweep:
    """Loads that are measured one after the other: what stands between commas."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        return ",".join(f"{value:g}" for value in self.values)


def _sweep(text: str, *, whole: bool) -> Sweep:
    try:
        values = tuple(float(int(part) if whole else float(part)) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < float("inf") for value in values):
        kind = "whole numbers" if whole else "numbers"
        raise typer.BadParameter(f"{text} is not {kind} above zero with commas between")
    return Sweep(values)


def _slo(text: str) -> Slo:
    names = {bound.name for bound in fields(Slo)}
    bounds: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            bounds[name] = float(value)
        except ValueError:
            bounds[name] = 0.0
        if name not in names or not bounds[name] > 0:
            raise typer.BadParameter(f"{part} is not ttft, tpot or e2e, =, and milliseconds")
    return Slo(**bounds)


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter("not a JSON object")
    return found


UrlOption = Annotated[
    str,
    typer.Option(
        help="The endpoint: a server's root, a /v1, or the whole address of its chat completions.",
        rich_help_panel=_TARGET,
    ),
]

ApiStyleOption = Annotated[
    ApiStyle | None,
    typer.Option(help="Unset: the server is asked.", rich_help_panel=_TARGET),
]

KeyOption = Annotated[
    str | None,
    typer.Option(envvar=_KEY_VARIABLE, help="The API key.", rich_help_panel=_TARGET),
]

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="The model's name. Unset: none in Azure's style, the server's first in OpenAI's.",
        rich_help_panel=_TARGET,
    ),
]

ExtraBodyOption = Annotated[
    dict[str, Any] | None,
    typer.Option(
        parser=_json_object,
        metavar="JSON",
        help="More fields of every request, such as '{\"ignore_eos\": true}'.",
        rich_help_panel=_TARGET,
    ),
]

ConcurrencyOption = Annotated[
    Sweep | None,
    typer.Option(
        parser=partial(_sweep, whole=True),
        metavar="N,N,…",
        help="Closed loop: so many callers, each asking again as soon as it is answered. "
        "Unset, and no --rate: 1,4,16.",
        rich_help_panel=_LOAD,
    ),
]

RateOption = Annotated[
    Sweep | None,
    typer.Option(
        parser=partial(_sweep, whole=False),
        metavar="R,R,…",
        help="Open loop: so many arrivals per second, at random (Poisson), whether or not "
        "others are answered. A conversation of several turns arrives once.",
        rich_help_panel=_LOAD,
    ),
]

RequestsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of each load and round; arrivals, in an open loop.",
        rich_help_panel=_LOAD,
    ),
]

DurationOption = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Seconds in which each load asks; all answers are waited for. Unset, and no "
        "--requests: 30.",
        rich_help_panel=_LOAD,
    ),
]

RoundsOption = Annotated[
    int,
    typer.Option(min=1, help="Of each load; figures are medians.", rich_help_panel=_LOAD),
]

WarmUpOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Requests before each load that are not counted. Unset: one per caller, 4 in an "
        "open loop.",
        rich_help_panel=_LOAD,
    ),
]

TimeoutOption = Annotated[
    float,
    typer.Option(min=0.1, help="Seconds that a request may take.", rich_help_panel=_LOAD),
]

SloOption = Annotated[
    Slo | None,
    typer.Option(
        parser=_slo,
        metavar="ttft=MS,tpot=MS,e2e=MS",
        help="Goodput counts the requests that keep all of these, in milliseconds.",
        rich_help_panel=_LOAD,
    ),
]

MixOption = Annotated[Mix, typer.Option(rich_help_panel=_ASKED)]

PromptTokensOption = Annotated[
    int, typer.Option(min=1, help="Of a turn, about.", rich_help_panel=_ASKED)
]

OutputTokensOption = Annotated[
    int, typer.Option(min=1, help="Of an answer, at most.", rich_help_panel=_ASKED)
]

TurnsOption = Annotated[
    int, typer.Option(min=1, help="Of multi-turn conversations.", rich_help_panel=_ASKED)
]

ImagePxOption = Annotated[
    int,
    typer.Option(min=16, max=8192, help="The pictures' sides.", rich_help_panel=_ASKED),
]

SeedOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Of all that is asked and when. Unset: a new one, so that no cache knows the prompts.",
        rich_help_panel=_ASKED,
    ),
]

ModelConfigOption = Annotated[
    Path | None,
    typer.Option(help="The model's folder, for its config.json.", rich_help_panel=_LIMIT),
]

ParamsOption = Annotated[
    float | None,
    typer.Option(min=1, help="Its parameters, such as 4.2e9, instead.", rich_help_panel=_LIMIT),
]

BytesPerParamOption = Annotated[
    float | None,
    typer.Option(min=0.1, help="Unset: by config.json's dtype, or 2.", rich_help_panel=_LIMIT),
]

BandwidthOption = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="The device's memory bandwidth in GB/s. Unset: measured, where the server is on "
        "this machine.",
        rich_help_panel=_LIMIT,
    ),
]

FlopsOption = Annotated[
    float | None,
    typer.Option(min=0.001, help="Its matrix rate in TFLOP/s; likewise.", rich_help_panel=_LIMIT),
]

OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="A folder for report.json, report.html and PNGs. Unset: bench-DATE-TIME.",
        rich_help_panel=_RESULT,
    ),
]

CompareOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        help="Measure nothing: draw two report.json in one report, with medians and ratios.",
        rich_help_panel=_RESULT,
    ),
]
