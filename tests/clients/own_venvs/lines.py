"""A client that a test drives: a line of JSON in, {call, ...}, for each line of JSON out."""

import json
import sys
from collections.abc import Callable
from typing import Any


def answer_lines(calls: dict[str, Callable[[dict[str, Any]], Any]]) -> None:
    for line in sys.stdin:
        given = json.loads(line)
        try:
            answer = {"returned": calls[given["call"]](given)}
        except Exception as thrown:
            fields = {"name": type(thrown).__name__, "message": str(thrown)}
            for optional in ("code", "param", "status_code"):
                fields[optional] = getattr(thrown, optional, None)
            answer = {"thrown": fields}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
