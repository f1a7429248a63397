"""JSON whose bytes are pure ASCII, so that no proxy or client can cut a character in half."""

import json
from typing import Any

from starlette.responses import Response


def to_ascii_json(value: Any) -> str:
    """Compact JSON; everything beyond ASCII as \\u escapes."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


class AsciiJSONResponse(Response):
    """A response of such JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_ascii_json(content).encode("ascii")
