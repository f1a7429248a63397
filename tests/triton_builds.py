"""Compiles every Triton kernel for cards that are not here, and prints what each build took.

`python -m tests.triton_builds 80 90`: a line of JSON for each kernel, dtype and architecture, with
the registers of a thread and the bytes that it spills. A process of its own: with the interpreter
switched on, as the tests have it, nothing can be compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from scoring.models.triton_kernels import paged_decode, pieces

# Of the genuine model.
HEAD_DIM, HIDDEN, INTERMEDIATE = 96, 3072, 8192
POINTERS = {"bf16": "*bf16", "fp16": "*fp16", "fp32": "*fp32"}


def kernels(x: str) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any]]]:
    """Name, function, types of its arguments, options. x: a pointer to the model's dtype."""
    for block_size in (16, 64):
        for is_float8 in (False, True):
            stored = "*u8" if is_float8 else x
            scales = "*fp32" if is_float8 else None
            types = {
                "query": x, "keys": stored, "values": stored, "key_scales": scales,
                "value_scales": scales, "block_tables": "*i32", "key_lens": "*i32", "output": x,
                "partial_outputs": "*fp32", "partial_logs": "*fp32", "width": "i32",
                "scale": "fp32",
            }  # fmt: skip
            options = paged_decode.split_options(HEAD_DIM, block_size, is_float8=is_float8)
            name = f"attend_split {block_size}{' 8 bits' if is_float8 else ''}"
            yield name, paged_decode.attend_split, types, options
    types = {
        "partial_outputs": "*fp32", "partial_logs": "*fp32", "key_lens": "*i32", "output": x,
    }  # fmt: skip
    yield "join_splits", paged_decode.join_splits, types, paged_decode.join_options(HEAD_DIM)
    for adds in (False, True):
        extra = x if adds else None
        types = {
            "x": x, "residual": extra, "weight": x, "output": x, "total": extra, "eps": "fp32",
        }  # fmt: skip
        yield f"norm_row {adds}", pieces.norm_row, types, pieces.norm_options(HIDDEN, adds=adds)
    types = {"gate_up": x, "output": x}
    yield "swiglu_row", pieces.swiglu_row, types, pieces.swiglu_options(INTERMEDIATE)
    for is_float8 in (False, True):
        stored = "*u8" if is_float8 else x
        scales = "*fp32" if is_float8 else None
        types = {
            "qkv": x, "cos": x, "sin": x, "slots": "*i64", "query": x, "keys": stored,
            "values": stored, "key_scales": scales, "value_scales": scales, "num_heads": "i32",
        }  # fmt: skip
        options = pieces.rotate_options(HEAD_DIM, is_float8=is_float8)
        name = f"rotate_and_write{' 8 bits' if is_float8 else ''}"
        yield name, pieces.rotate_and_write_heads, types, options


def build(function: Any, types: dict[str, str | None], options: dict[str, Any], cc: int) -> Any:
    constants = {name: value for name, value in options.items() if name in function.arg_names}
    settings = {name: value for name, value in options.items() if name not in constants}
    constants |= {name: None for name, kind in types.items() if kind is None}
    signature = {
        name: "constexpr" if name in constants else types[name] for name in function.arg_names
    }
    # As launched: pointers from the allocator are aligned to 16 bytes.
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(function.arg_names)
        if signature[name].startswith("*")
    }
    keyed = {(function.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=function, signature=signature, constexprs=keyed, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", cc, 32), options=settings)


def usage(binary: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of local memory, where what is spilled goes."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary)
        report = subprocess.run(
            [tool, "--dump-resource-usage", file.name],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
    registers, stack, local = (
        int(re.search(rf"{name}:(\d+)", report)[1]) for name in ("REG", "STACK", "LOCAL")
    )
    return registers, stack + local


def main(architectures: list[int], dtypes: list[str]) -> None:
    for cc in architectures:
        for dtype in dtypes:
            for name, function, types, options in kernels(POINTERS[dtype]):
                built = build(function, types, options, cc)
                target = re.search(r"\.target (\w+)", built.asm["ptx"])[1]
                registers, spilled = usage(built.asm["cubin"])
                row = {"kernel": name, "dtype": dtype, "target": target}
                print(json.dumps(row | {"registers": registers, "spilled": spilled}), flush=True)


if __name__ == "__main__":
    main([int(cc) for cc in sys.argv[1].split(",")], sys.argv[2].split(","))
