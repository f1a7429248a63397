"""The command line: `phi3v serve` and `phi3v download`."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from model_config import ModelConfigError
from scoring.errors import ScoringError
from scoring.logs import configure_logging

from .settings import Settings, SettingsError, load_settings

app = typer.Typer(
    help="Serve Phi-3-vision-128k-Instruct.", no_args_is_help=True, add_completion=False
)
logger = logging.getLogger("phi3v")


def _flag(name: str) -> Any:
    """A flag whose help is its setting's description and default."""
    field = Settings.model_fields[name]
    default = "" if field.default is None else f" Default: {field.default}."
    return typer.Option(help=f"{field.description}{default}", show_default=False)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    model: Annotated[str | None, _flag("model")] = None,
    revision: Annotated[str | None, _flag("revision")] = None,
    card: Annotated[str | None, _flag("card")] = None,
    host: Annotated[str | None, _flag("host")] = None,
    port: Annotated[int | None, _flag("port")] = None,
    api_key: Annotated[str | None, _flag("api_key")] = None,
    no_auth: Annotated[bool | None, _flag("no_auth")] = None,
    device: Annotated[str | None, _flag("device")] = None,
    dtype: Annotated[str | None, _flag("dtype")] = None,
    quantization: Annotated[str | None, _flag("quantization")] = None,
    attention: Annotated[str | None, _flag("attention")] = None,
    kv_cache_dtype: Annotated[str | None, _flag("kv_cache_dtype")] = None,
    max_model_len: Annotated[int | None, _flag("max_model_len")] = None,
    max_num_seqs: Annotated[int | None, _flag("max_num_seqs")] = None,
    max_num_batched_tokens: Annotated[int | None, _flag("max_num_batched_tokens")] = None,
    max_queued_requests: Annotated[int | None, _flag("max_queued_requests")] = None,
    max_queued_tokens: Annotated[int | None, _flag("max_queued_tokens")] = None,
    kv_cache_gib: Annotated[float | None, _flag("kv_cache_gib")] = None,
    feature_cache_mib: Annotated[int | None, _flag("feature_cache_mib")] = None,
    max_request_s: Annotated[float | None, _flag("max_request_s")] = None,
    max_body_mib: Annotated[int | None, _flag("max_body_mib")] = None,
    max_receive_s: Annotated[float | None, _flag("max_receive_s")] = None,
    max_image_megapixels: Annotated[float | None, _flag("max_image_megapixels")] = None,
    engine_process: Annotated[bool | None, _flag("engine_process")] = None,
    data_parallel: Annotated[int | None, _flag("data_parallel")] = None,
    drain_s: Annotated[float | None, _flag("drain_s")] = None,
    log_level: Annotated[str | None, _flag("log_level")] = None,
) -> None:
    """Start the server. Every flag is also a variable: PHI3V_MAX_MODEL_LEN for --max-model-len."""
    flags = {name: value for name, value in locals().items() if name != "config"}
    try:
        settings = load_settings(flags, os.environ, config)
        configure_logging(settings.log_level.upper())
        _serve(settings)
    except (SettingsError, ScoringError, ModelConfigError) as error:
        _fail(error)


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
