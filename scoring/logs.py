"""How this product's processes log: to stdout, one line an event, all in one format.

text is for people, json for what collects logs: an object a line, {"time", "level", "logger",
"message"}, and beside them whatever the caller gave as `extra={"fields": {…}}`.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["auto", "text", "json"]
_QUIET = ("uvicorn.error", "uvicorn.access", "httpx", "huggingface_hub", "transformers", "azure")
# A longer one is cut: collectors split or drop them.
_MAX_CHARS = 8192


def configure_logging(level: int | str, log_format: LogFormat = "auto") -> None:
    """auto: text on a terminal, else json."""
    if log_format == "auto":
        log_format = "text" if sys.stdout.isatty() else "json"
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JSONFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # One line per request is ours; libraries speak up when something is wrong.
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_format() -> LogFormat:
    """What this process was configured with, for another one."""
    formatters = [type(handler.formatter) for handler in logging.getLogger().handlers]
    return "json" if _JSONFormatter in formatters else "text"


class _TextFormatter(logging.Formatter):
    """The fields behind the message, as name=value; a nested one's names joined by a dot."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = _flat(getattr(record, "fields", {}))
        pairs = "".join(f" {name}={value}" for name, value in fields.items())
        return (super().formatMessage(record) + pairs)[:_MAX_CHARS]


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_MAX_CHARS],
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-_MAX_CHARS:]
        return json.dumps(line, default=str)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _flat(fields: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
