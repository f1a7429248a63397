"""Imports point one way, server → scoring → model_config, and torch stays on the engine's side."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
# What the API process runs. It starts in a second because none of it imports torch.
API_SIDE = (
    *("prompt", "image_processor", "sequence", "text_stream", "async_engine", "engine_config"),
    *("grammar", "grammar_checker", "grammar_process", "engine_group"),
)
TORCH_SIDE = ("torch", "torchvision", "accelerate", "safetensors", "flash_attn", "triton")
# The command line offers `phi3v bench`, and imports it when it is asked for.
COMMANDS = {("server/cli.py", "benchmark.load.command.main")}
# Of transformers only what works without torch.
TORCHLESS_TRANSFORMERS = {"PreTrainedTokenizerFast", "TextIteratorStreamer"}


def imports_of(file: Path) -> Iterator[str]:
    """The dotted names that a file imports anywhere in it, in functions too.

    `from a import b` gives a.b, which may name a module or something in one.
    """
    package = file.relative_to(PROJECT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_of_package(package: str) -> list[tuple[str, str]]:
    """(file, name) of every import in a package, save for what it imports of itself."""
    files = sorted((PROJECT / package).rglob("*.py"))
    return [
        (str(file.relative_to(PROJECT)), name)
        for file in files
        for name in imports_of(file)
        if name.split(".")[0] != package
    ]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("model_config", ("server", "scoring", "benchmark", "fastapi", *TORCH_SIDE)),
        ("scoring", ("server", "benchmark", "fastapi", "starlette", "uvicorn", "pydantic")),
        ("server", ("benchmark", *TORCH_SIDE)),
    ],
)
def test_imports_point_one_way(package, forbidden):
    if not (PROJECT / package).is_dir():
        pytest.skip(f"there is no {package}/ yet")
    imports = imports_of_package(package)
    assert imports, f"nothing was found in {package}/"

    found = {(file, name) for file, name in imports if name.split(".")[0] in forbidden}
    assert found - COMMANDS == set()


def test_the_load_generator_is_a_client_and_nothing_else():
    imports = imports_of_package("benchmark/load")
    ours = ("server", "scoring", "model_config")

    assert [(file, name) for file, name in imports if name.split(".")[0] in ours] == []


def test_the_server_knows_the_model_only_through_the_engine():
    imports = imports_of_package("server") if (PROJECT / "server").is_dir() else []

    assert [(file, name) for file, name in imports if name.startswith("scoring.models")] == []
    from_transformers = {name for _, name in imports if name.split(".")[0] == "transformers"}
    assert from_transformers <= {f"transformers.{name}" for name in TORCHLESS_TRANSFORMERS}


@pytest.mark.parametrize(
    "modules",
    [
        tuple(f"scoring.{name}" for name in API_SIDE),
        ("model_config",),
        ("server.app",),
        ("server.cli",),
        ("benchmark.load.command",),
        ("server.serving",),
    ],
    ids="+".join,
)
def test_the_api_process_starts_without_torch(modules):
    for module in modules:
        if not PROJECT.joinpath(*module.split(".")).with_suffix(".py").exists():
            package = PROJECT.joinpath(*module.split("."))
            if not (package / "__init__.py").exists():
                pytest.skip(f"there is no {module} yet")
    program = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"

    result = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 0, result.stderr or "torch was imported"


def test_the_engine_starts_without_transformers():
    """Its import takes longer than all the rest, and the engine needs nothing of it."""
    program = "import sys, scoring.engine_builder; sys.exit('transformers' in sys.modules)"

    result = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 0, result.stderr or "transformers was imported"


def test_ray_is_imported_in_its_own_folder_only():
    """It is an extra."""
    imports = [
        (file, name)
        for package in ("model_config", "scoring", "server")
        for file, name in imports_of_package(package)
        if name.split(".")[0] == "ray"
    ]
    assert imports, "nothing imports ray any more"

    assert {file for file, _ in imports if not file.startswith("server/ray/")} == {"server/cli.py"}


@pytest.mark.parametrize("module", ["server.cli", "server.serving", "server.app"])
def test_the_server_starts_without_ray(module):
    program = f"import sys, {module}; sys.exit('ray' in sys.modules)"

    result = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 0, result.stderr or "ray was imported"


@pytest.mark.parametrize("module", ["application", "ingress", "engine_replica", "fleet"])
def test_what_runs_on_ray_but_for_the_engine_needs_no_torch(module):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    program = f"import sys, server.ray.{module}; sys.exit('torch' in sys.modules)"

    result = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )

    assert result.returncode == 0, result.stderr or "torch was imported"
