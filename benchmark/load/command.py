"""`phi3v bench`: the options, and what they set going."""

import asyncio
import random
import sys
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import typer

from . import options
from .charts import Chart, charts, save_pngs
from .comparison import comparison, differences, labels
from .device_probe import measure_device
from .document import Document, DocumentError, load_document, save_document, to_document
from .endpoint import EndpointError, find_endpoint
from .headroom import measure_headroom
from .limits import DeviceRates, ModelSize, ModelSizeError
from .loops import Stop
from .page import comparison_page, measurement_page
from .run import Load, Plan, Run, UnusableEndpointError
from .tables import remarks, tables
from .terminal import TerminalProgress, print_tables
from .workload import Workload

_DEFAULT_CALLERS = (1.0, 4.0, 16.0)
_DEFAULT_DURATION_S = 30.0
_HEADROOM_S = 1.0
_DEFAULT_BYTES_PER_PARAM = 2.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_INTERRUPTED = 130  # what shells say of a program that Ctrl-C ended

app = typer.Typer(add_completion=False)


def main(arguments: list[str]) -> None:
    """The command with the words after `phi3v bench`."""
    app(arguments, prog_name="phi3v bench")


@app.command()
def bench(
    context: typer.Context,
    url: options.UrlOption = "http://127.0.0.1:5001",
    api_style: options.ApiStyleOption = None,
    key: options.KeyOption = None,
    model: options.ModelOption = None,
    extra_body: options.ExtraBodyOption = None,
    concurrency: options.ConcurrencyOption = None,
    rate: options.RateOption = None,
    requests: options.RequestsOption = None,
    duration: options.DurationOption = None,
    rounds: options.RoundsOption = 1,
    warm_up: options.WarmUpOption = None,
    timeout: options.TimeoutOption = 300.0,
    slo: options.SloOption = None,
    mix: options.MixOption = "text",
    prompt_tokens: options.PromptTokensOption = 128,
    output_tokens: options.OutputTokensOption = 64,
    turns: options.TurnsOption = 3,
    image_px: options.ImagePxOption = 672,
    seed: options.SeedOption = None,
    model_config: options.ModelConfigOption = None,
    params: options.ParamsOption = None,
    bytes_per_param: options.BytesPerParamOption = None,
    bandwidth: options.BandwidthOption = None,
    flops: options.FlopsOption = None,
    output: options.OutputOption = None,
    compare: options.CompareOption = None,
) -> None:
    """Measure any chat endpoint of Azure's or OpenAI's style under load: latencies, throughput,
    errors, and how near the hardware's limit it comes. docs/bench.md says what the figures mean."""
    directory = output or Path(f"bench-{datetime.now():%Y%m%d-%H%M%S}")
    if not _can_draw():
        typer.echo("there will be no charts: they need `pip install matplotlib`", err=True)
    try:
        if compare is not None:
            _compare(compare, directory)
            return
        size = _model_size(model_config, params, bytes_per_param)
        workload = Workload(
            mix,
            prompt_tokens,
            output_tokens,
            turns,
            image_px,
            random.randrange(10**6) if seed is None else seed,
        )
        if requests is None and duration is None:
            duration = _DEFAULT_DURATION_S
        plan = Plan(
            endpoint=find_endpoint(url, api_style, model, key, extra_body or {}),
            workload=workload,
            loads=_loads(concurrency, rate),
            stop=Stop(requests, duration),
            rounds=rounds,
            warm_up=warm_up,
            timeout_s=timeout,
            slo=slo,
            size=size,
            rates=_device_rates(url, size, bandwidth, flops),
        )
        _make_directory(directory)
        _measure(plan, directory, _arguments(context))
    except (DocumentError, EndpointError, ModelSizeError, UnusableEndpointError) as error:
        _fail(str(error))


def _loads(concurrency: options.Sweep | None, rate: options.Sweep | None) -> tuple[Load, ...]:
    callers = concurrency.values if concurrency else ()
    rates = rate.values if rate else ()
    if not callers and not rates:
        callers = _DEFAULT_CALLERS
    closed = tuple(Load("closed", value) for value in callers)
    return closed + tuple(Load("open", value) for value in rates)


def _model_size(
    directory: Path | None, params: float | None, bytes_per_param: float | None
) -> ModelSize | None:
    if directory is not None and params is not None:
        raise typer.BadParameter("give --model-config or --params, not both")
    if directory is not None:
        return ModelSize.of_config(directory, bytes_per_param)
    if params is not None:
        return ModelSize.of_params(params, bytes_per_param or _DEFAULT_BYTES_PER_PARAM)
    return None


def _device_rates(
    url: str, size: ModelSize | None, bandwidth: float | None, flops: float | None
) -> DeviceRates:
    """Those that were given; what was not is measured, where that makes sense."""
    if size is None and bandwidth is None and flops is None:
        return DeviceRates(None, None, "not asked for")
    given = DeviceRates(
        bandwidth and bandwidth * 1e9, flops and flops * 1e12, "given on the command line"
    )
    if size is None or (bandwidth is not None and flops is not None):
        return given
    if urlsplit(url).hostname not in _LOOPBACK:
        why = "what was not given is unknown: the server is on another machine"
        return replace(given, source=why)
    measured = measure_device(size.bytes_per_param)
    if bandwidth is None and flops is None:
        return measured
    return DeviceRates(
        given.bandwidth or measured.bandwidth,
        given.flops or measured.flops,
        f"one given on the command line, the other {measured.source}",
    )


def _arguments(context: typer.Context) -> dict[str, Any]:
    """As they were understood, without the key."""
    told = {name: value for name, value in context.params.items() if name != "key"}
    return {
        name: value if isinstance(value, int | float | str | dict | None) else str(value)
        for name, value in told.items()
    }


def _measure(plan: Plan, directory: Path, arguments: dict[str, Any]) -> None:
    headroom, was_interrupted = None, False
    with TerminalProgress() as progress:
        run = Run(plan, progress)
        try:
            asyncio.run(run.measure())
            headroom = measure_headroom(run.levels, plan.workload, plan.endpoint, _HEADROOM_S)
        except KeyboardInterrupt:
            was_interrupted = True
    if was_interrupted and not run.levels:
        raise typer.Exit(_INTERRUPTED)
    document = to_document(plan, run, headroom, arguments, was_interrupted=was_interrupted)
    save_document(document, directory / "report.json")
    drawn = _charts({"": document}, directory)
    (directory / "report.html").write_text(measurement_page(document, drawn))
    print_tables(tables(document), remarks(document))
    typer.echo(f"{directory / 'report.html'}")
    if was_interrupted:
        raise typer.Exit(_INTERRUPTED)
    if not any(found.summary.num_whole for level in run.levels for found in level.rounds):
        _fail("not one request was answered")


def _compare(files: tuple[Path, Path], directory: Path) -> None:
    first, second = (load_document(file) for file in files)
    names = labels(files)
    documents = dict(zip(names, (first, second), strict=True))
    table, said = comparison(first, second, names), differences(first, second)
    _make_directory(directory)
    drawn = _charts(documents, directory)
    page = comparison_page(documents, table, said, drawn)
    (directory / "comparison.html").write_text(page)
    print_tables([table], said)
    typer.echo(f"{directory / 'comparison.html'}")


def _charts(documents: dict[str, Document], directory: Path) -> list[Chart]:
    if not _can_draw():
        return []
    drawn = charts(documents)
    save_pngs(drawn, directory)
    return drawn


def _can_draw() -> bool:
    return find_spec("matplotlib") is not None


def _make_directory(directory: Path) -> None:
    """Before anything is measured that could not be kept."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _fail(f"{directory} cannot be made: {error.strerror}")


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"phi3v bench: {message}\n")
    raise typer.Exit(1)
