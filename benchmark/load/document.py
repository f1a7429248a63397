"""The JSON file of a measurement: everything measured, and where it comes from."""

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..provenance import commit, hardware, version
from .headroom import Headroom
from .run import Plan, Run

SCHEMA = "phi3v-bench/1"
_PACKAGES = ("phi3v-server", "torch", "transformers")
Document = dict[str, Any]


class DocumentError(Exception):
    """A file is no measurement that this version reads. The message is for the user."""


def to_document(
    plan: Plan,
    run: Run,
    headroom: Headroom | None,
    arguments: dict[str, Any],
    *,
    was_interrupted: bool,
) -> Document:
    """arguments: of the command line, without the key."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "was_interrupted": was_interrupted,
        "target": {
            "url": plan.endpoint.url,
            "api_style": plan.endpoint.style,
            "model": plan.endpoint.model or run.model,
        },
        "arguments": arguments,
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
        "hardware": hardware(),
        "workload": asdict(plan.workload),
        "stop": asdict(plan.stop),
        "slo_ms": asdict(plan.slo) if plan.slo else None,
        "model_size": asdict(plan.size) if plan.size else None,
        "device_rates": asdict(plan.rates),
        "headroom": asdict(headroom) if headroom else None,
        "levels": [level.to_json() for level in run.levels],
    }


def load_document(file: Path) -> Document:
    """Raises DocumentError."""
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DocumentError(f"{file} cannot be read: {error}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise DocumentError(f"{file} is of the schema {schema}, not {SCHEMA}")
    return dict(document)


def save_document(document: Document, file: Path) -> None:
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
