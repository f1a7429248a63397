"""Which weights to serve."""

import logging
from pathlib import Path

from scoring.checkpoint import find_weights, locate_checkpoint
from scoring.demo_model import DEMO, demo_checkpoint

from .settings import Settings

logger = logging.getLogger("phi3v")


def served_checkpoint(settings: Settings) -> Path:
    """Those named, else the hub's cache, else the demo model. Raises CheckpointError."""
    if settings.model is not None:
        return locate_checkpoint(settings.model, settings.revision)
    found = find_weights(None, None)
    if found is not None:
        return found
    checkpoint = demo_checkpoint()
    logger.warning(
        "no weights found (--model, AZUREML_MODEL_DIR or the hub's cache): "
        "serving the DEMO model, %s",
        "a small one for a first look"
        if checkpoint == DEMO
        else "random here: its words are noise",
    )
    return checkpoint
