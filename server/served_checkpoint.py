"""Which weights to serve."""

import logging
from pathlib import Path

from scoring.cache_directory import cache_directory
from scoring.checkpoint import find_weights, locate_checkpoint
from scoring.errors import CheckpointError

from .settings import Settings

logger = logging.getLogger("phi3v")


def served_checkpoint(settings: Settings) -> Path:
    """Those named, else the hub's cache, else the demo model. Raises CheckpointError."""
    if settings.model is not None:
        return locate_checkpoint(settings.model, settings.revision)
    found = find_weights(None, None)
    if found is not None:
        return found
    logger.warning(
        "no weights found (--model, AZUREML_MODEL_DIR or the hub's cache): serving the DEMO model, "
        "whose weights are random and whose words are noise"
    )
    return _demo_checkpoint()


def _demo_checkpoint() -> Path:
    directory = cache_directory() / "demo-random-2"
    if not (directory / "config.json").exists():
        from scoring.random_checkpoint import write_demo_checkpoint  # imports torch

        try:
            write_demo_checkpoint(directory)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise CheckpointError(
                f"the demo model cannot be written to {directory}: {why}"
            ) from error
    return directory
