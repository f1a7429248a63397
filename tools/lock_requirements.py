"""Makes requirements/*.lock: every package of the image, pinned, with the hashes of its files.

Run with the image's Python (3.11) on x86-64 Linux; needs the network. `make lock` runs it.
"""

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


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "pip-tools"], check=True)
        of_project = ["--extra", "otel", "--constraint", "constraints.txt", "pyproject.toml"]
        _lock(python, "cuda", of_project)
        _lock(python, "cpu", ["--extra-index-url", CPU_INDEX, *of_project])
        tools = Path(directory) / "flash.in"
        tools.write_text("\n".join(FLASH_TOOLS))
        _lock(python, "flash", [str(tools)], more=FLASH_ATTN)


def _lock(python: Path, name: str, arguments: list[str], more: str = "") -> None:
    options = ["--quiet", "--generate-hashes", "--no-emit-index-url", "--no-header"]
    options += ["--no-annotate", "--strip-extras", "--allow-unsafe", "--output-file", "-"]
    command = [str(python), "-m", "piptools", "compile", *options, *arguments]
    done = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    (LOCKS / f"{name}.lock").write_text(HEADER + done.stdout + more)


if __name__ == "__main__":
    main()
