"""How long a step of an engine takes, by what is in it: measured by measure.py, kept as JSON."""

import json
from bisect import bisect_left
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCHEMA = "phi3v-step-times/1"


class StepTimesError(Exception):
    """A file that holds no step times. The message is for the user."""


@dataclass(frozen=True)
class StepShape:
    """What is in a step. tokens: those of all rows, one for each that decodes. context: tokens in
    front of the decoding rows' tokens, together. pairs: of each prompt token with itself and those
    before it. crops: through the picture tower, also parts of one."""

    tokens: float
    context: float
    pairs: float
    crops: float


@dataclass(frozen=True)
class StepTimes:
    """Seconds. of_tokens: (tokens, seconds) of steps with next to no context, by tokens; what lies
    between is interpolated. The others are added for each token of context, each pair, each crop.
    prompt_share, crops_share: what the engine lets a prompt bring to a step in which others decode,
    see scoring/scheduler.py. source: where this is from."""

    of_tokens: tuple[tuple[int, float], ...]
    per_context: float
    per_pair: float
    per_crop: float
    prompt_share: int
    crops_share: float
    source: dict[str, Any]

    @property
    def shortest(self) -> float:
        """Seconds of the smallest step."""
        return self.of_tokens[0][1]

    def seconds(self, shape: StepShape) -> float:
        return (
            self._of_tokens(shape.tokens)
            + self.per_context * shape.context
            + self.per_pair * shape.pairs
            + self.per_crop * shape.crops
        )

    def _of_tokens(self, tokens: float) -> float:
        """Beyond the last point the last slope goes on; below the first, a step costs as much as
        that one, for the weights are read anyway."""
        points = self.of_tokens
        if tokens <= points[0][0]:
            return points[0][1] if tokens else 0.0
        index = min(bisect_left(points, (tokens,)), len(points) - 1)
        (x0, y0), (x1, y1) = points[index - 1], points[index]
        return y0 + (y1 - y0) * (tokens - x0) / (x1 - x0)

    def save(self, file: Path) -> None:
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")


def load_step_times(file: Path) -> StepTimes:
    """Raises StepTimesError."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepTimesError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.pop("schema", None) != SCHEMA:
        raise StepTimesError(f"{file} holds no {SCHEMA}")
    points = tuple((tokens, seconds) for tokens, seconds in found.pop("of_tokens"))
    return StepTimes(points, **found)
