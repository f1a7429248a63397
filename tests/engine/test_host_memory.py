"""How much memory a container may still take, by the kernel's files."""

from pathlib import Path

import psutil
import pytest

from scoring.host_memory import host_memory

MIB = 1 << 20


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def group(directory: str, limit: str, used: int, cached: int, version: int) -> dict[str, str]:
    """A control group's files."""
    if version == 2:
        names = ("memory.max", "memory.current", "inactive_file")
    else:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return {
        f"{directory}/{names[0]}": f"{limit}\n",
        f"{directory}/{names[1]}": f"{used}\n",
        f"{directory}/memory.stat": f"anon 5\n{names[2]} {cached}\n",
    }


@pytest.mark.parametrize(
    ("version", "line", "mount"),
    [(2, "0::/app\n", "sys/fs/cgroup"), (1, "4:memory:/app\n0::/\n", "sys/fs/cgroup/memory")],
)
def test_a_containers_limit_counts_and_file_pages_do_not(tmp_path, version, line, mount):
    write(tmp_path, **{"proc/self/cgroup": line})
    write(tmp_path, **group(f"{mount}/app", str(64 * MIB), 40 * MIB, 10 * MIB, version))

    memory = host_memory(tmp_path)

    assert memory.available == (64 - 40 + 10) * MIB
    assert "container" in memory.where


def test_the_tightest_group_above_counts(tmp_path):
    write(tmp_path, **{"proc/self/cgroup": "0::/a/b\n"})
    write(tmp_path, **group("sys/fs/cgroup/a", str(32 * MIB), 20 * MIB, 0, 2))
    write(tmp_path, **group("sys/fs/cgroup/a/b", str(64 * MIB), 20 * MIB, 0, 2))

    assert host_memory(tmp_path).available == 12 * MIB


def test_a_path_of_the_world_outside_means_the_mount(tmp_path):
    """So it is in a container whose groups have no name space of their own."""
    write(tmp_path, **{"proc/self/cgroup": "4:memory:/docker/0123\n"})
    write(tmp_path, **group("sys/fs/cgroup/memory", str(8 * MIB), 3 * MIB, 0, 1))

    assert host_memory(tmp_path).available == 5 * MIB


def test_a_group_that_is_beyond_its_limit_has_nothing_left(tmp_path):
    write(tmp_path, **{"proc/self/cgroup": "0::/\n"})
    write(tmp_path, **group("sys/fs/cgroup", str(MIB), 2 * MIB, 0, 2))

    assert host_memory(tmp_path).available == 0


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_without_a_limit_the_machines_memory_counts(tmp_path, limit):
    write(tmp_path, **{"proc/self/cgroup": "0::/\n"})
    write(tmp_path, **group("sys/fs/cgroup", limit, MIB, 0, 2))

    memory = host_memory(tmp_path)

    assert abs(memory.available - psutil.virtual_memory().available) < 1 << 30
    assert memory.where == "on this machine"


def test_without_any_of_the_files_the_machines_memory_counts(tmp_path):
    assert host_memory(tmp_path).where == "on this machine"
