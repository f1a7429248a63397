"""Launches as torch operators: then they run under FakeTensorMode, where shapes, dtypes and devices
are checked without a GPU, and torch.compile leaves them as they are."""

from collections.abc import Callable
from typing import Any

import torch

# For every kernel: a product and a sum become one instruction, as Triton's default has been.
BUILD_OPTIONS = {"enable_fp_fusion": True}

# Not torch.library.custom_op: its wrapper costs 10 µs a call, this 1 µs.
_library = torch.library.Library("phi3v", "FRAGMENT")


def operator(
    schema: str, fake: Callable[..., object]
) -> Callable[[Callable[..., object]], Callable[..., Any]]:
    """Make the decorated launcher the operator phi3v::schema. fake: the same with no computation,
    for fake tensors."""

    def register(launch: Callable[..., object]) -> Callable[..., Any]:
        name = schema.partition("(")[0]
        _library.define(schema)
        _library.impl(name, launch, "CompositeExplicitAutograd")
        torch.library.register_fake(f"phi3v::{name}", fake, lib=_library)
        launched: Callable[..., Any] = getattr(torch.ops.phi3v, name).default
        return launched

    return register
