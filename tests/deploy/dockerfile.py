"""The Dockerfile, read as far as the tests need it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCKERFILE = PROJECT / "Dockerfile"


@dataclass(frozen=True)
class Stage:
    """One stage's instructions, continued lines joined."""

    text: str

    def last(self, instruction: str) -> str:
        """The arguments of the last one of its kind."""
        return re.findall(rf"^{instruction} (.*)$", self.text, re.MULTILINE)[-1]

    @property
    def environment(self) -> dict[str, str]:
        """What ENV sets, $PATH and the like left as they stand."""
        lines = re.findall(r"^ENV (.*)$", self.text, re.MULTILINE)
        return dict(pair.split("=", 1) for line in lines for pair in line.split())

    @property
    def entrypoint(self) -> list[str]:
        return list(json.loads(self.last("ENTRYPOINT")))

    @property
    def healthcheck(self) -> list[str]:
        return list(json.loads(self.last("HEALTHCHECK").partition("CMD ")[2]))


def last_stage() -> Stage:
    """The one that runs."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    return Stage(re.split(r"^FROM ", text, flags=re.MULTILINE)[-1])
