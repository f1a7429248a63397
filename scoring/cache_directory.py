"""Where the server keeps what it can make again: the demo model, compiled kernels."""

import os
import tempfile
from functools import cache
from pathlib import Path


@cache
def cache_directory() -> Path:
    """A directory that is there and writable: XDG_CACHE_HOME's or the home's; where neither can be
    written to, a private temporary one, the same for the whole process."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = root / "phi3v-server"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        directory = Path()
    if directory.is_absolute() and os.access(directory, os.W_OK):
        return directory
    return Path(tempfile.mkdtemp(prefix="phi3v-server-"))
