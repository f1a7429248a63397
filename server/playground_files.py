"""The playground's files, as they lie in the package: static, and public as they hold no secret."""

from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath

PAGE_PATH = "/playground"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}


@dataclass(frozen=True)
class PlaygroundFile:
    content: bytes
    media_type: str


def _read() -> dict[str, PlaygroundFile]:
    files = resources.files(__package__).joinpath("playground").iterdir()
    return {
        file.name: PlaygroundFile(file.read_bytes(), _TYPES[PurePath(file.name).suffix])
        for file in files
    }


FILES = _read()
PAGE = FILES.pop("index.html")
PATHS = frozenset({PAGE_PATH, *(f"{PAGE_PATH}/{name}" for name in FILES)})
