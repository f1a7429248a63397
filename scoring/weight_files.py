"""What the headers of safetensors files say, and whether the files are as long as that. Imports no
torch: the API process looks before it listens."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # as the safetensors library has it
_ITEM_SIZES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what its header says."""

    file: Path
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


def weight_files(directory: Path) -> list[Path]:
    """Those of a checkpoint. Raises CheckpointError where one is missing, or all are."""
    index, single = directory / _INDEX, directory / _SINGLE
    if index.exists():
        files = sorted({directory / name for name in _weight_map(index).values()})
    elif single.exists():
        files = [single]
    else:
        raise CheckpointError(f"there is neither {index.name} nor {single.name}")
    for file in files:
        if not file.exists():
            raise CheckpointError(f"{file.name} is missing, though {index.name} names it")
    return files


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint by name, in the order in which they lie in their files.

    Raises CheckpointError for files that are missing, cut short or no safetensors.
    """
    return {
        name: tensor
        for file in weight_files(directory)
        for name, tensor in tensors_of(file).items()
    }


def tensors_of(file: Path) -> dict[str, StoredTensor]:
    """Of one file. Raises CheckpointError."""
    try:
        header, start = _header(file)
        tensors = sorted(
            ((entry["data_offsets"], name, entry) for name, entry in header.items()),
            key=lambda found: tuple(found[0]),
        )
        stored, end = {}, 0
        for (first, last), name, entry in tensors:
            stored[name] = StoredTensor(file, tuple(entry["shape"]), last - first)
            size = _ITEM_SIZES.get(entry["dtype"])
            if first != end or (size and size * stored[name].num_elements != last - first):
                raise ValueError(f"{name} does not fill its place")
            end = last
    except OSError as error:
        raise _unreadable(file, error.strerror or type(error).__name__) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(file, "its header is no safetensors header") from error
    there = file.stat().st_size
    if there != start + end:
        raise _unreadable(file, f"it has {there} bytes, and {start + end} by its header")
    return stored


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The tensors' entries, and where the data begins."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if length > min(_MAX_HEADER_BYTES, os.fstat(opened.fileno()).st_size):
            raise ValueError("the header's length is out of range")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return header, _LENGTH_BYTES + length


def _unreadable(file: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint's weights cannot be read: {file.name}: {why}")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index.name} cannot be read: {error}") from error
    match content:
        case {"weight_map": dict() as names} if all(isinstance(f, str) for f in names.values()):
            return names
    raise CheckpointError(f"{index.name} has no weight_map of names to files")
