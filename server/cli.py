"""The command line: `phi3v serve` and `phi3v download`."""

import inspect
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import typer

from model_config import ModelConfigError
from scoring.errors import ScoringError
from scoring.logs import configure_logging

from .settings import Settings, SettingsError, load_settings

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


def serve(config: Path | None, **flags: Any) -> None:
    """Start the server. Every flag is also a variable: PHI3V_MAX_MODEL_LEN for --max-model-len."""
    try:
        settings = load_settings(flags, os.environ, config)
        configure_logging(settings.log_level.upper(), settings.log_format)
        _serve(settings)
    except (SettingsError, ScoringError, ModelConfigError) as error:
        _fail(error)


# Typer reads a command's flags off its signature: one flag for every setting.
_config = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, typer.Option(help="A TOML file of settings.")],
)
serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_config, *map(_flag, Settings.model_fields)]
)
app.command()(serve)


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


def _serve(settings: Settings) -> None:
    # Imported here, so that --help and `download` need not wait for them.
    from .serving import run

    run(settings, _checkpoint(settings))


def _checkpoint(settings: Settings) -> Path:
    """The weights to serve: those named, else the hub's cache, else the demo model."""
    from model_config import card_ids, load_card
    from scoring.checkpoint import cached_snapshot, locate_checkpoint

    if settings.model is not None:
        return locate_checkpoint(settings.model, settings.revision)
    for card in map(load_card, card_ids()):
        found = cached_snapshot(card.hub_id, card.revision) if card.hub_id else None
        if found is not None:
            return found
    logger.warning(
        "no weights found (--model, AZUREML_MODEL_DIR or the hub's cache): serving the DEMO model, "
        "whose weights are random and whose words are noise"
    )
    return _demo_checkpoint()


def _demo_checkpoint() -> Path:
    from scoring.cache_directory import cache_directory

    directory = cache_directory() / "demo-random-2"
    if not (directory / "config.json").exists():
        from scoring.random_checkpoint import write_demo_checkpoint  # imports torch

        write_demo_checkpoint(directory)
    return directory


def _fail(error: Exception) -> NoReturn:
    """One line, no traceback."""
    sys.stderr.write(f"phi3v: {error}\n")
    raise typer.Exit(1)
