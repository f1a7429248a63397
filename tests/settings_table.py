"""The documentation's table of settings, made from the settings themselves.

`python -m tests.settings_table` writes it; test_documentation.py fails while it is out of date.
"""

import re
from pathlib import Path

from pydantic import BaseModel

from server.access_settings import AccessSettings
from server.cluster_settings import ClusterSettings
from server.image_settings import ImageSettings
from server.limit_settings import LimitSettings
from server.settings import Settings
from server.telemetry_settings import TelemetrySettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
# Every setting stands in one: a test compares.
_GROUPS = {
    "The server and its engine:": Settings,
    "Limits:": LimitSettings,
    "Pictures:": ImageSettings,
    "Who may call:": AccessSettings,
    "Logs and traces:": TelemetrySettings,
    "A cluster:": ClusterSettings,
}
_REGION = re.compile(r"(<!-- settings:.*?-->\n).*?(<!-- /settings -->)", re.DOTALL)


def with_current_table(text: str) -> str:
    """The page's text with the table as it should be."""
    tables = "\n".join(f"{title}\n\n{_table(group)}" for title, group in _GROUPS.items())
    return _REGION.sub(lambda match: match[1] + tables + match[2], text)


def _table(group: type[BaseModel]) -> str:
    """The settings that the group itself declares."""
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if name in group.__annotations__:
            default = "" if field.default in (None, ()) else f"`{field.default}`"
            rows.append(f"| `--{name.replace('_', '-')}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(with_current_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
