"""The mid-sized random checkpoint and its text twin, built once, kept in the temporary folder."""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).resolve().parents[2] / "shared" / "tools" / "make_mid.py"
_CACHE = Path(tempfile.gettempdir()) / "phi3v-bench"


@dataclass(frozen=True)
class MidCheckpoints:
    """model: phi3_v with a picture tower. twin: its decoder alone, as transformers' phi3."""

    model: Path
    twin: Path


def mid_checkpoints() -> MidCheckpoints:
    """Their directories. Exits the process where the script that makes them is not at hand."""
    made = MidCheckpoints(_CACHE / "phi3v-mid", _CACHE / "phi3v-mid-text")
    if all((path / "config.json").exists() for path in (made.model, made.twin)):
        return made
    if not _SCRIPT.exists():
        sys.exit(f"the script for the mid-sized checkpoint is not here: {_SCRIPT}")
    _CACHE.mkdir(parents=True, exist_ok=True)
    # Built aside and moved: another process may have the files of a finished one mapped.
    with tempfile.TemporaryDirectory(dir=_CACHE) as aside:
        model, twin = Path(aside) / "model", Path(aside) / "twin"
        command = [sys.executable, str(_SCRIPT), str(model), "--text-twin", str(twin)]
        subprocess.run(command, check=True)
        for built, wanted in ((model, made.model), (twin, made.twin)):
            if not (wanted / "config.json").exists():
                shutil.rmtree(wanted, ignore_errors=True)
                built.rename(wanted)
    return made
