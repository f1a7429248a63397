"""The image's recipe: what it is built from, and what it must and must not hold."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .dockerfile import DOCKERFILE, PROJECT, last_stage

# What Azure ML takes of a build context.
MAX_FILES, MAX_BYTES = 100, 1_000_000
_ENTRY = re.compile(
    r"^([a-z0-9._-]+)==(\S+) \\\n(?:    --hash=sha256:[0-9a-f]{64}.*\n?)+", re.MULTILINE
)


def pins(lock: str) -> dict[str, str]:
    """A lock's packages and versions, each of which must have a hash."""
    text = (PROJECT / "requirements" / f"{lock}.lock").read_text()
    entries = _ENTRY.findall(text)
    lines = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert len(entries) == len(lines), "every package is pinned and hashed"
    return dict(entries)


def bin_of(name: str) -> str:
    """A tool that pip installed beside the interpreter."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} is missing: pip install -e '.[dev]'"
    return found


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [bin_of("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("lock", ["cuda", "cpu"])
def test_the_lock_has_what_the_project_needs(lock: str) -> None:
    found = pins(lock)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    for requirement in map(Requirement, needed):
        version = found.get(requirement.name)
        assert version, f"{requirement.name} is missing: make lock"
        assert requirement.specifier.contains(version), f"{requirement}: {version}; make lock"
    (torch,) = (PROJECT / "constraints.txt").read_text().split()
    assert found["torch"].removesuffix("+cpu") == torch.removeprefix("torch==")
    assert ("nvidia-cublas" in found) == (lock == "cuda")


def test_flash_attn_is_pinned_as_the_extra_allows() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    (flash,) = map(Requirement, project["optional-dependencies"]["flash"])
    assert flash.specifier.contains(pins("flash")[flash.name])


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_what_ray_needs_is_pinned_beside_what_the_image_has(device: str) -> None:
    image, more = pins(device), pins("ray")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    (ray,) = map(Requirement, project["optional-dependencies"]["ray"])
    assert ray.specifier.contains(more["ray"]), "make lock"
    assert not image.keys() & more.keys()


def test_the_context_stays_within_what_azure_ml_takes(tmp_path: Path) -> None:
    rules = (PROJECT / ".dockerignore").read_text()
    assert (PROJECT / ".amlignore").read_text() == rules
    lines = [line for line in rules.splitlines() if line and not line.startswith("#")]
    assert lines == ["*", "!Dockerfile", "!dist/*.whl", "!requirements/*.lock"]
    environ = os.environ | {"PYTHON": sys.executable, "PIP_NO_BUILD_ISOLATION": "0"}
    script = PROJECT / "tools" / "image_wheel.sh"
    subprocess.run([str(script), str(tmp_path)], env=environ, check=True, timeout=120)
    context = [DOCKERFILE, *tmp_path.glob("*.whl"), *(PROJECT / "requirements").glob("*.lock")]
    assert len(context) == 6
    assert len(context) <= MAX_FILES
    assert sum(file.stat().st_size for file in context) < MAX_BYTES


def test_it_runs_as_an_ordinary_user_on_a_port_of_its_own() -> None:
    stage = last_stage()
    assert f"useradd --uid {stage.last('USER')} " in stage.text
    assert int(stage.last("USER")) > 0
    assert stage.last("EXPOSE") == "5001" == stage.environment["PHI3V_PORT"]
    assert stage.entrypoint == ["phi3v", "serve"], "in exec form: signals reach it"
    assert stage.environment["HF_HUB_OFFLINE"] == "1"


def test_no_compiler_is_in_what_runs() -> None:
    assert not re.search(r"g\+\+|gcc|clang|build-essential|nvcc", last_stage().text)


def test_what_needs_a_compiler_is_compiled_before() -> None:
    """Flash-attn from its hashed source: its installer would fetch a wheel that has no hash."""
    first, _, _ = DOCKERFILE.read_text().rpartition("\nFROM ")
    assert "python -m scoring.models.native_kernels" in first
    assert "python -m scoring.models.triton_kernels.launcher" in first
    assert "FLASH_ATTENTION_FORCE_BUILD=TRUE" in first


def test_all_caches_lie_in_the_one_writable_folder() -> None:
    stage = last_stage()
    caches = {v for k, v in stage.environment.items() if "CACHE" in k or k == "HF_HOME"}
    assert all(cache.startswith("/var/cache/phi3v") for cache in caches)
    assert len(caches) == 4
    assert "install -d -o phi3v /var/cache/phi3v" in stage.text
