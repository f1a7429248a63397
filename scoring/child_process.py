"""How processes of our own are started."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def start_python(
    module: str, *arguments: str, environ: Mapping[str, str] = os.environ, **options: Any
) -> "subprocess.Popen[bytes]":
    """A fresh interpreter that runs the module and finds the same ones as this. Its standard input
    ends when we do, however we end; a terminal's Ctrl-C, which goes to a whole process group, does
    not reach it. The current directory's modules are not taken for ours. options: of Popen."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        env={**environ, "PYTHONPATH": path},
        process_group=0,
        **options,
    )
