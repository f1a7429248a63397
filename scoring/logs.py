"""How this product's processes log: to stderr, one line an event, all in one format."""

import logging

_QUIET = ("uvicorn.error", "uvicorn.access", "httpx", "huggingface_hub", "transformers")


def configure_logging(level: int | str) -> None:
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", force=True
    )
    # One line per request is ours; libraries speak up when something is wrong.
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
