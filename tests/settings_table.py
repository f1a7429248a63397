"""The README's table of settings, made from the settings themselves.

`python -m tests.settings_table` writes it; test_readme.py fails while it is out of date.
"""

import re
from pathlib import Path

from server.settings import Settings

README = Path(__file__).resolve().parent.parent / "README.md"
_REGION = re.compile(r"(<!-- settings:.*?-->\n).*?(<!-- /settings -->)", re.DOTALL)


def with_current_table(text: str) -> str:
    """The README's text with the table as it should be."""
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `--{name.replace('_', '-')}` | {default} | {field.description} |")
    return _REGION.sub(lambda match: match[1] + "\n".join(rows) + "\n" + match[2], text)


if __name__ == "__main__":
    README.write_text(with_current_table(README.read_text(encoding="utf-8")), encoding="utf-8")
