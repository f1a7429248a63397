"""The command line: `phi3v serve`, `chat`, `batch`, `bench`, `doctor`, `download` and `version`."""

import inspect
import logging
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import typer

from model_config import ModelConfigError
from scoring.errors import ScoringError
from scoring.logs import configure_logging

from .batch.command import batch
from .chat.command import chat
from .config_report import config_report
from .settings import Settings, SettingsError, load_settings
from .standard_streams import open_standard_streams

app = typer.Typer(
    help="Serve Phi-3-vision-128k-Instruct.", no_args_is_help=True, add_completion=False
)
logger = logging.getLogger("phi3v")


def _flag(name: str) -> inspect.Parameter:
    """A flag of the setting's name, with its description and default for help."""
    field = Settings.model_fields[name]
    default = f" Default: {field.default}." if field.default not in (None, ()) else ""
    option = typer.Option(help=f"{field.description}{default}", show_default=False)
    kinds = {field.annotation, *get_args(field.annotation)}
    kind = next((kind for kind in (bool, int, float) if kind in kinds), str)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def serve(config: Path | None, check: bool, print_config: bool, **flags: Any) -> None:
    """Start the server. Every flag is also a variable: PHI3V_MAX_MODEL_LEN for --max-model-len."""
    open_standard_streams()
    try:
        if print_config:
            typer.echo(config_report(flags, os.environ, config), nl=False)
            return
        settings = load_settings(flags, os.environ, config)
        configure_logging(settings.log_level.upper(), settings.log_format)
        if check:
            _diagnose(settings, as_json=False)
        else:
            _serve(settings)
    except (SettingsError, ScoringError, ModelConfigError) as error:
        _fail(error)


def doctor(config: Path | None, json: bool, **flags: Any) -> None:
    """Look at this machine and say whether it can serve; exit code 1 where it cannot. The flags are
    those of serve."""
    from .doctor import diagnose_without, print_findings

    try:
        settings = load_settings(flags, os.environ, config)
    except SettingsError as error:
        print_findings(diagnose_without(error), as_json=json)
        raise typer.Exit(1) from None
    _diagnose(settings, as_json=json)


def _option(name: str, kind: Any, default: Any, description: str) -> inspect.Parameter:
    option = typer.Option(f"--{name.replace('_', '-')}", help=description, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _with_settings(command: Callable[..., None], *options: inspect.Parameter) -> None:
    """Add a command. Typer reads its flags off its signature: one for every setting."""
    file = _option("config", Path | None, None, "A TOML file of settings.")
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [file, *options, *map(_flag, Settings.model_fields)]
    )
    app.command()(command)


_with_settings(
    serve,
    _option("check", bool, False, "Do not serve; say as doctor does whether it would work."),
    _option("print_config", bool, False, "Do not serve; print every setting and its origin."),
)
_with_settings(doctor, _option("json", bool, False, "Print findings as JSON."))
app.command()(chat)
app.command()(batch)


@app.command()
def version() -> None:
    """Print the server's version."""
    typer.echo(f"phi3v-server {metadata.version('phi3v-server')}")


@app.command()
def download(
    hub_id: Annotated[
        str, typer.Argument(help="The model's hub id.")
    ] = "microsoft/Phi-3-vision-128k-instruct",
    revision: Annotated[
        str | None, typer.Option(help="Commit. Unset: the one pinned for a model we know.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="A directory instead of the hub's local cache.")
    ] = None,
) -> None:
    """Fetch a model's weights at a pinned revision; no code is fetched. Prints where they lie."""
    from scoring.checkpoint import download_snapshot

    try:
        typer.echo(download_snapshot(hub_id, revision, to))
    except ScoringError as error:
        _fail(error)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(context: typer.Context) -> None:
    """Measure a chat endpoint, ours or any other, under load; --help lists the options."""
    from benchmark.load.command import main  # its options are its own: serving needs none of it

    main(context.args)


def _diagnose(settings: Settings, *, as_json: bool) -> None:
    from .doctor import diagnose, print_findings

    findings = diagnose(settings)
    print_findings(findings, as_json=as_json)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


def _serve(settings: Settings) -> None:
    # Imported here, so that --help and `download` need not wait for them.
    if settings.cluster == "ray":
        _serve_on_ray(settings)
        return
    from .served_checkpoint import served_checkpoint
    from .serving import run

    run(settings, served_checkpoint(settings))


def _serve_on_ray(settings: Settings) -> None:
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"cluster is ray, which needs the extra: pip install 'phi3v-server[ray]' ({error})"
        ) from error
    from .ray.command import run

    run(settings)


def _fail(error: Exception) -> NoReturn:
    """One line, no traceback."""
    sys.stderr.write(f"phi3v: {error}\n")
    raise typer.Exit(1)
