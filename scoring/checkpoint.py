"""Where weights come from: a directory, Azure ML's mount, or the hub at a pinned revision."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from model_config import card_of_hub_id

from .errors import CheckpointError

DEMO = Path(__file__).parent / "demo"
"""The demo model, which comes with the package."""

_MAX_DEPTH = 4
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Data only: the repository's Python files are never fetched.
_FILES = ("*.safetensors", "*.json", "LICENSE")


def find_checkpoint(directory: Path) -> Path:
    """The directory that holds config.json beside safetensors: the one given or, as registered
    models lie nested in a mount, the first one up to four levels below it.

    Raises CheckpointError where there is none.
    """
    level = [directory]
    for _ in range(_MAX_DEPTH + 1):
        for candidate in level:
            if (candidate / "config.json").is_file() and any(candidate.glob("*.safetensors")):
                return candidate
        level = sorted(child for parent in level for child in _children(parent))
    raise CheckpointError(
        f"there is no checkpoint (config.json beside *.safetensors) in {directory} "
        f"or up to {_MAX_DEPTH} levels below it"
    )


def _children(directory: Path) -> Iterator[Path]:
    try:
        yield from (child for child in directory.iterdir() if child.is_dir())
    except OSError:
        return


def locate_checkpoint(model: str, revision: str | None) -> Path:
    """A directory or hub id → the checkpoint's directory, fetched from the hub if need be."""
    if Path(model).is_dir():
        return find_checkpoint(Path(model))
    if _HUB_ID.fullmatch(model) is None or model.startswith("."):
        raise CheckpointError(f"model is {model!r}, which is neither a directory nor a hub id")
    cached = cached_snapshot(model, revision)
    return cached or download_snapshot(model, revision)


def pinned_revision(hub_id: str, revision: str | None) -> str:
    """The commit to use: the given one, else the one pinned in the model's card."""
    card = card_of_hub_id(hub_id)
    pinned = revision or (card and card.revision)
    if not pinned:
        raise CheckpointError(f"no revision is pinned for {hub_id}: name a commit with --revision")
    return pinned


def cached_snapshot(hub_id: str, revision: str | None) -> Path | None:
    """The checkpoint in the hub's local cache, or None if it is not all there."""
    try:
        path = snapshot_download(
            hub_id,
            revision=pinned_revision(hub_id, revision),
            allow_patterns=list(_FILES),
            local_files_only=True,
        )
        checkpoint = find_checkpoint(Path(path))
    except (LocalEntryNotFoundError, CheckpointError):
        return None
    return checkpoint if _is_complete(checkpoint) else None


def _is_complete(checkpoint: Path) -> bool:
    """Whether every shard is there: an interrupted download leaves the index and some of them."""
    index = checkpoint / "model.safetensors.index.json"
    if not index.exists():
        return True
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((checkpoint / shard).exists() for shard in shards)


def download_snapshot(hub_id: str, revision: str | None, to: Path | None = None) -> Path:
    """Fetch a checkpoint, data files only, at its pinned revision. to: a directory instead of the
    hub's cache. An interrupted download goes on where it stopped.

    Raises CheckpointError with the hub's status where it refuses or cannot be reached.
    """
    commit = pinned_revision(hub_id, revision)
    try:
        path = snapshot_download(hub_id, revision=commit, allow_patterns=list(_FILES), local_dir=to)
    except Exception as error:  # the library's own, its HTTP client's, and the file system's
        status = _hub_status(error)
        if status is None:
            raise CheckpointError(
                f"the hub could not be reached for {hub_id}, or broke off ({type(error).__name__})"
            ) from error
        raise CheckpointError(f"the hub answered {status} for {hub_id} at {commit}") from error
    return find_checkpoint(Path(path))


def _hub_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, which the hub's library may have wrapped in another."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return int(error.response.status_code)
        error = error.__cause__ or error.__context__
    return None
