"""Which weights would be served, and whether they are whole."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from model_config import ModelConfigError, from_checkpoint
from scoring.checkpoint import find_weights
from scoring.errors import ScoringError
from scoring.weight_files import stored_tensors, weight_files

from ..settings import Settings
from .finding import Finding, failed, ok, warning

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_weights(settings: Settings) -> tuple[Path | None, list[Finding]]:
    """The checkpoint that would be served, if there is one. Nothing is downloaded."""
    try:
        checkpoint = find_weights(settings.model, settings.revision)
        if checkpoint is None and settings.model is None:
            return None, [warning("weights", "none found: the small DEMO model is served")]
        if checkpoint is None:
            return None, [warning("weights", f"{settings.model} is fetched from the hub first")]
        model = from_checkpoint(checkpoint)
        tensors = stored_tensors(checkpoint)
    except (ScoringError, ModelConfigError) as error:
        return None, [failed("weights", str(error))]
    num_bytes = sum(tensor.num_bytes for tensor in tensors.values())
    files = weight_files(checkpoint)
    text = (
        f"{model.name_or_path or 'a model'} in {checkpoint}: {len(tensors)} tensors, "
        f"{num_bytes / 1e9:.2f} GB in {len(files)} file(s), whole by their headers"
    )
    return checkpoint, [ok("weights", text), check_hashes(files)]


def check_hashes(files: list[Path]) -> Finding:
    """Against what the hub said when they were fetched."""
    known = [(file, expected) for file in files if (expected := _expected(file)) is not None]
    wrong = [file.name for file, expected in known if _sha256(file) != expected]
    if wrong:
        return failed("hashes", f"not as the hub has them: {', '.join(wrong)}; fetch them again")
    if len(known) < len(files):
        sizes = ", ".join(f"{file.name} {file.stat().st_size:,} bytes" for file in files)
        return ok("hashes", f"unknown for {len(files) - len(known)} of {len(files)}: {sizes}")
    return ok("hashes", f"sha256 of {len(files)} file(s) as on the hub")


def _expected(file: Path) -> str | None:
    """The sha256 that the hub gave: its cache names files by it, and a download to a directory
    notes it beside them."""
    if file.is_symlink() and _SHA256.fullmatch(file.resolve().name):
        return file.resolve().name
    notes = file.parent / ".cache/huggingface/download" / f"{file.name}.metadata"
    return next(_hashes_in(notes), None)


def _hashes_in(notes: Path) -> Iterator[str]:
    try:
        lines = notes.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    yield from filter(_SHA256.fullmatch, lines)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
