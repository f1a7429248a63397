"""How much of the host's memory this process may still take.

psutil and torch count the whole machine. A container has less: its control group's limit, at which
the kernel kills, stands in the files of version 1 or 2. Imports no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

_ROOT = Path("/")
# Of each version: where it is mounted, the limit's file, the usage's, and of the statistics what
# of the usage is file pages that go when room is needed.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@dataclass(frozen=True)
class HostMemory:
    """available: bytes that are not in use. where: what bounds them, for a reader."""

    available: int
    where: str


def host_memory(root: Path = _ROOT) -> HostMemory:
    """As measured now. root: of the file system, if not this one's."""
    found = HostMemory(int(psutil.virtual_memory().available), "on this machine")
    for directory, files in _groups(root):
        room = _room(directory, *files)
        if room is not None and room < found.available:
            found = HostMemory(room, "under this container's limit")
    return found


def process_bytes() -> int:
    """What this process has of it."""
    return int(psutil.Process().memory_info().rss)


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The directories of this process's group and those above it. In a container that does not see
    the groups outside, a path may lead nowhere; its own group is at the mount then."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, files = mount, _V2
        elif "memory" in controllers.split(","):
            top, files = mount / "memory", _V1
        else:
            continue
        relative = PurePosixPath(path.lstrip("/"))
        for part in (relative, *relative.parents):
            yield top / part, files


def _room(directory: Path, limit_file: str, usage_file: str, reclaimable: str) -> int | None:
    """None where there is no limit, or no such group."""
    limit, usage = _read(directory / limit_file).strip(), _read(directory / usage_file).strip()
    if not limit.isdecimal() or not usage.isdecimal():  # "max", or nothing
        return None
    statistics = dict(
        line.split(maxsplit=1) for line in _read(directory / "memory.stat").splitlines()
    )
    return max(0, int(limit) - int(usage) + int(statistics.get(reclaimable, 0)))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
