"""Every setting, its value, and where that is from; secrets are masked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from .settings import Settings, load_settings, merge_sources


def config_report(
    flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None
) -> str:
    """A line of TOML for each setting, with its origin behind it. Raises SettingsError."""
    settings = load_settings(flags, environ, file)
    merged = merge_sources(flags, environ, file)
    lines = []
    for name in Settings.model_fields:
        value = _toml(getattr(settings, name))
        origin = merged[name][1] if name in merged else "default"
        mark = "# " if value is None else ""  # TOML has no null
        lines.append(f"{mark}{name} = {value or ''}".rstrip().ljust(50) + f"  # {origin}\n")
    return "".join(lines)


def _toml(value: Any) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return str(value).lower()
        case SecretStr():
            return '"********"'
        case tuple():
            return f"[{', '.join(filter(None, map(_toml, value)))}]"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
    return str(value)
