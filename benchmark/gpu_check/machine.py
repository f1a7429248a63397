"""The machine and the software that a table comes from."""

import platform
from collections.abc import Iterator
from datetime import UTC, datetime

import torch

from ..provenance import commit, said_by, version
from .lab import Lab
from .table import Row

CHECK = "machine"
_PACKAGES = ("torch", "triton", "flash-attn", "transformers")


def check_machine(lab: Lab) -> Iterator[Row]:
    """Facts, as rows of notes."""
    for name, fact in _facts(lab).items():
        yield Row(CHECK, "", name, None, note=fact)


def _facts(lab: Lab) -> dict[str, str]:
    device = _gpu() if lab.device == "cuda" else {"device": f"CPU ({platform.machine()})"}
    packages = {name: version(name) for name in _PACKAGES}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        **device,
        "python": platform.python_version(),
        **packages,
        "weights": lab.model.name,
        "parity": "the published code's outputs" if lab.golden else "our own float32 forward",
    }


def _gpu() -> dict[str, str]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": f"{properties.total_memory / 2**30:.1f} GiB",
        "driver": said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "CUDA": str(torch.version.cuda),
    }
