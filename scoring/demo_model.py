"""The model that is served where no weights are found: small, trained on drawings, in here."""

from pathlib import Path

from .cache_directory import cache_directory
from .errors import CheckpointError

DEMO = Path(__file__).resolve().parent / "demo"
_RANDOM = "demo-random-3"


def has_demo_weights() -> bool:
    """Not so in an image: what it is built from may be 1 MB on Azure ML."""
    return (DEMO / "model.safetensors").exists()


def demo_checkpoint() -> Path:
    """DEMO, or, without its weights, one of random weights, made in the cache. Raises
    CheckpointError where that cannot be written."""
    if has_demo_weights():
        return DEMO
    directory = cache_directory() / _RANDOM
    if not (directory / "config.json").exists():
        from .random_checkpoint import write_demo_checkpoint  # imports torch

        try:
            write_demo_checkpoint(directory)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise CheckpointError(
                f"the demo model cannot be written to {directory}: {why}"
            ) from error
    return directory
