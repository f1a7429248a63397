"""`phi3v serve` in a process of its own, for a benchmark to ask."""

import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
TINY = _ROOT.parent / "shared" / "tiny-phi3v"
_STOP_TIMEOUT_S = 60.0


class OwnServer:
    """Started with a checkpoint and flags; url is known when it is ready. Close it."""

    def __init__(self, checkpoint: Path, *flags: str) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "server", "serve", "--port", "0", "--dtype", "float32"),
                *("--model", str(checkpoint), *flags),
            ],
            stderr=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        self.url = self._wait_until_ready()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=_STOP_TIMEOUT_S)

    def _wait_until_ready(self) -> str:
        assert self._process.stderr is not None
        url = ""
        for line in self._process.stderr:
            if found := re.search(r"listening on (\S+)", line):
                url = found[1]
            if "ready after" in line:
                return url
        sys.exit("a server did not get ready")
