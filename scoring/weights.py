"""safetensors on disk → the model on its device, strictly and without a second copy."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model_config import ModelConfig

from .errors import CheckpointError
from .large_pages import empty_in_large_pages
from .models.phi3_vision import Phi3VisionForCausalLM
from .weight_files import StoredTensor, stored_tensors

# A file's pages count as ours while it is open, so it is closed and opened anew after so many
# bytes: the peak is the weights and this.
_BYTES_PER_OPENING = 64 << 20
_NAMES_IN_MESSAGE = 5

Progress = Callable[[int, int], None]
"""Called with the bytes read and the bytes there are."""


def build_empty(config: ModelConfig) -> Phi3VisionForCausalLM:
    """The model without weights: its parameters are on the meta device."""
    with init_empty_weights(include_buffers=False):
        return Phi3VisionForCausalLM(config)


def load_model(
    directory: Path,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
) -> Phi3VisionForCausalLM:
    """Load a checkpoint, tensor by tensor, straight to the device and dtype.

    Raises CheckpointError naming the tensors that are missing, left over or of the wrong shape,
    and for files that cannot be read.
    """
    model = build_empty(config)
    try:
        stored = stored_tensors(directory)
        _check(stored, {name: tuple(p.shape) for name, p in model.named_parameters()})
        _fill(model, stored, device, dtype, progress)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's weights cannot be read: {error}") from error
    model.to(device)  # the few buffers; every parameter is there already
    model.rope.to(device)
    return model.requires_grad_(False).eval()


def _check(stored: dict[str, StoredTensor], wanted: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(wanted.keys() - stored.keys())
    left_over = sorted(stored.keys() - wanted.keys())
    wrong = [
        f"{name} is {list(stored[name].shape)}, not {list(shape)}"
        for name, shape in sorted(wanted.items())
        if name in stored and stored[name].shape != shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:_NAMES_IN_MESSAGE])}"
        + (", …" if len(names) > _NAMES_IN_MESSAGE else "")
        for kind, names in (("missing", missing), ("left over", left_over), ("misshapen", wrong))
        if names
    ]
    if problems:
        raise CheckpointError("the checkpoint's tensors do not fit: " + "; ".join(problems))


def _fill(
    model: Phi3VisionForCausalLM,
    stored: dict[str, StoredTensor],
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
) -> None:
    total, done = sum(tensor.num_bytes for tensor in stored.values()), 0
    for names in _openings(stored):
        with safe_open(stored[names[0]].file, framework="pt") as handle:
            for name in names:
                value = _on(device, handle.get_tensor(name), dtype)
                set_module_tensor_to_device(model, name, device, value=value, dtype=dtype)
                done += stored[name].num_bytes
                progress(done, total)


def _on(device: torch.device, value: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy: what was read goes when the file is closed."""
    if device.type == "cpu":
        return empty_in_large_pages(tuple(value.shape), dtype).copy_(value)
    return value.to(device, dtype, copy=True)


def _openings(stored: dict[str, StoredTensor]) -> list[list[str]]:
    """Group names, in the order they lie on disk, by file and by what one opening may read."""
    groups: list[list[str]] = []
    file, size = None, 0
    for name, tensor in stored.items():
        if tensor.file != file or size + tensor.num_bytes > _BYTES_PER_OPENING:
            groups.append([])
            file, size = tensor.file, 0
        groups[-1].append(name)
        size += tensor.num_bytes
    return groups
