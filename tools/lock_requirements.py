"""Makes requirements/*.lock: every package of the image, pinned, with the hashes of its files.

Run with the image's Python (3.11) on x86-64 Linux; needs the network. `make lock` runs it.
"""

import re
import subprocess
import tempfile
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOCKS = PROJECT / "requirements"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
HEADER = "# Pinned and hashed for Python 3.11 on x86_64 Linux. Made by `make lock`.\n"
# flash-attn is compiled against the torch of cuda.lock, by what else stands in its lock. Its own
# metadata needs torch to be read, so its hash is written here.
FLASH_ATTN = """\
flash-attn==2.8.3 \\
    --hash=sha256:1e71dd64a9e0280e0447b8a0c2541bad4bf6ac65bdeaa2f90e51a9e57de0370d
"""
FLASH_TOOLS = ("einops", "ninja", "packaging", "psutil", "setuptools", "wheel")
_PIN = re.compile(r"^(\S+)==(\S+) ", re.MULTILINE)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "pip-tools"], check=True)
        of_project = ["--extra", "otel", "--constraint", "constraints.txt", "pyproject.toml"]
        _lock(python, "cuda", of_project)
        _lock(python, "cpu", ["--extra-index-url", CPU_INDEX, *of_project])
        _lock_ray(python, Path(directory) / "pinned.txt")
        tools = Path(directory) / "flash.in"
        tools.write_text("\n".join(FLASH_TOOLS))
        _lock(python, "flash", [str(tools)], more=FLASH_ATTN)


def _lock(python: Path, name: str, arguments: list[str], more: str = "") -> None:
    (LOCKS / f"{name}.lock").write_text(HEADER + _compiled(python, arguments) + more)


def _lock_ray(python: Path, pinned: Path) -> None:
    """What the extra needs beside what the image has anyway."""
    have = dict(_PIN.findall((LOCKS / "cuda.lock").read_text()))
    pinned.write_text("".join(f"{name}=={version}\n" for name, version in have.items()))
    compiled = _compiled(python, ["--extra", "ray", "--constraint", str(pinned), "pyproject.toml"])
    entries = re.split(r"^(?=\S)", compiled, flags=re.MULTILINE)
    more = [entry for entry in entries if entry and entry.partition("==")[0] not in have]
    (LOCKS / "ray.lock").write_text(HEADER + "".join(more))


def _compiled(python: Path, arguments: list[str]) -> str:
    """→ entries of a lock."""
    options = ["--quiet", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links"]
    options += ["--no-header", "--no-annotate", "--strip-extras", "--allow-unsafe"]
    options += ["--output-file", "-"]
    command = [str(python), "-m", "piptools", "compile", *options, *arguments]
    done = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
