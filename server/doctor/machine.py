"""What a machine has beside its device: packages, a compiler, room, a free port, a clock."""

import os
import platform
import resource
import shutil
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from scoring.cache_directory import cache_directory

from ..listening import check_port
from ..settings import Settings, SettingsError
from .finding import Finding, failed, ok, warning

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "fastapi", "uvicorn", "pillow")
_OPTIONAL = ("triton", "flash-attn")
_MIN_CACHE_MIB = 512  # for compiled kernels and the demo
_MIN_SHM_MIB = 64
# Beside one for each connection: modules, the engine's socket, pictures that are fetched.
_FILES_BESIDE = 128


def check_python() -> Finding:
    uname = platform.uname()
    return ok("python", f"{platform.python_version()} on {uname.system} {uname.machine}")


def check_packages() -> Finding:
    versions = {name: _version(name) for name in ("phi3v-server", *_PACKAGES)}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return failed("packages", f"not installed: {', '.join(missing)}")
    shown = [f"{name} {version}" for name, version in versions.items()]
    shown += [f"{name} {_version(name) or 'not installed'}" for name in _OPTIONAL]
    return ok("packages", ", ".join(shown))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_compiler() -> Finding:
    """A CPU's kernels need a C++ compiler, Triton's launcher a C compiler."""
    cxx = shutil.which("g++")
    cc = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if cxx and cc:
        return ok("compiler", f"{cxx} for a CPU's kernels, {cc} for Triton's")
    lacking = " and ".join(
        what
        for there, what in ((cxx, "no g++ for a CPU's kernels"), (cc, "no C compiler for Triton's"))
        if not there
    )
    return warning("compiler", f"{lacking}: the model runs slower than it could")


def check_cache_directory() -> Finding:
    try:
        directory = cache_directory()
        free_mib = shutil.disk_usage(directory).free >> 20
    except OSError:
        return failed("cache", "neither XDG_CACHE_HOME, the home nor TMPDIR can be written to")
    if directory.name != "phi3v-server":
        return warning(
            "cache",
            f"neither XDG_CACHE_HOME nor the home can be written to: kernels are built anew at "
            f"every start, in {directory.parent}, {free_mib:,} MiB free",
        )
    text = f"{directory}, {free_mib:,} MiB free"
    if free_mib < _MIN_CACHE_MIB:
        return warning("cache", f"{text}; compiled kernels may need {_MIN_CACHE_MIB}")
    return ok("cache", text)


def check_shared_memory() -> Finding:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return warning("/dev/shm", "it is not there; torch may want it")
    total_mib = shutil.disk_usage(shm).total >> 20
    if total_mib < _MIN_SHM_MIB:
        return warning("/dev/shm", f"{total_mib:,} MiB; docker run --shm-size gives it more")
    return ok("/dev/shm", f"{total_mib:,} MiB")


def check_address(host: str, port: int) -> Finding:
    try:
        check_port(host, port)
    except SettingsError as error:
        return failed("port", str(error))
    return ok("port", f"{host}:{port} is free" if port else f"any free one of {host}")


def check_open_files(settings: Settings) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("open files", "no limit")
    need = settings.max_num_seqs + settings.max_queued_requests + _FILES_BESIDE
    if soft < need:
        return warning("open files", f"at most {soft}; as many callers as may wait need {need}")
    return ok("open files", f"at most {soft}")


def check_clock() -> Finding:
    """Tokens of Entra ID and certificates are judged by it. It cannot be earlier than the files of
    this installation."""
    now, installed = time.time(), Path(__file__).stat().st_mtime
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if now < installed:
        there = datetime.fromtimestamp(installed, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return failed("clock", f"it says {shown}, but this server was installed at {there}")
    return ok("clock", shown)
