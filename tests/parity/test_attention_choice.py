"""Which attention a device gets: the first that is there and right."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from scoring.engine_builder import build_engine
from scoring.engine_config import EngineConfig
from scoring.errors import CheckpointError
from scoring.models.attention.choose import (
    Candidate,
    choose,
    cpu_candidates,
    cuda_candidates,
    cuda_kernels,
)
from scoring.models.attention.compiled import CompiledBackend, paged_decode
from scoring.models.attention.cpu import CpuBackend
from scoring.models.attention.sdpa import SdpaBackend
from scoring.models.attention.self_test import TOLERANCES, largest_error, pieces_error
from scoring.models.kernels import EAGER, Kernels
from scoring.models.native_kernels import load_native

CPU = torch.device("cpu")


class SeesTheFuture(SdpaBackend):
    """Every prompt's tokens see one more than they should."""

    def plan(self, batch):
        plan = super().plan(batch)
        masks = [row.mask if row.mask is None else row.mask.roll(1, 1) for row in plan.prefills]
        rows = [replace(r, mask=m) for r, m in zip(plan.prefills, masks, strict=True)]
        return replace(plan, prefills=rows)


class WrongScale(SdpaBackend):
    def attend(self, query, cache, metadata):
        return super().attend(query * 96**0.5 / 128**0.5, cache, metadata)


class StaleBlock(SdpaBackend):
    """Takes a row's second block for its last."""

    def plan(self, batch):
        tables = batch.block_tables.clone()
        tables[:, 2:] = tables[:, 1:2]
        return super().plan(replace(batch, block_tables=tables))


class ReadsPadding(SdpaBackend):
    """Gives padding no weight, but reads it."""

    def _decode(self, query, cache, rows):
        beyond = torch.full_like(rows.slots, cache.keys.shape[0] - 1)
        slots = torch.where(rows.mask, rows.slots, beyond)
        return super()._decode(query, cache, replace(rows, slots=slots))


class Raises(SdpaBackend):
    def attend(self, query, cache, metadata):
        raise RuntimeError("no kernel image is available for execution on the device")


WRONG = {
    "future": SeesTheFuture,
    "scale": WrongScale,
    "stale": StaleBlock,
    "padding": ReadsPadding,
    "raises": Raises,
}
RIGHT = Candidate("sdpa", lambda: (SdpaBackend(), EAGER))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_what_is_right_is_off_by_a_fraction_of_what_is_allowed(config, dtype):
    assert largest_error(SdpaBackend(), EAGER, config, dtype, CPU) < TOLERANCES[dtype] / 2
    eager = CompiledBackend(paged_decode)
    assert largest_error(eager, EAGER, config, dtype, CPU) < TOLERANCES[dtype] / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_native_backend_passes(config, dtype):
    native, why = load_native(dtype, config.text)
    if native is None:
        pytest.skip(why)
    kernels = native.kernels(16)
    assert largest_error(CpuBackend(native), kernels, config, dtype, CPU) < TOLERANCES[dtype] / 2


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("wrong", ["future", "scale", "stale", "padding"])
def test_what_is_wrong_is_off_by_more(config, wrong, dtype):
    error = largest_error(WRONG[wrong](), EAGER, config, dtype, CPU)

    assert not error <= 2 * TOLERANCES[dtype]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_backend_gives_way_to_the_next_in_one_line(config, caplog, wrong):
    broken = Candidate("triton", lambda: (WRONG[wrong](), EAGER))

    with caplog.at_level(logging.INFO):
        backend, _ = choose([broken, RIGHT], "auto", config, torch.float32, CPU)

    assert type(backend) is SdpaBackend
    (line,) = [r.message for r in caplog.records]
    assert line.startswith("attention: sdpa, off by ")
    assert "; not triton: it" in line


def test_what_cannot_be_had_is_said_with_its_reason(config, caplog):
    missing = Candidate("flash_attn", lambda: 1 / 0, "the package flash_attn is not installed")

    with caplog.at_level(logging.INFO):
        choose([missing, RIGHT], "auto", config, torch.float32, CPU)

    assert "not flash_attn: the package flash_attn is not installed" in caplog.text


@pytest.mark.parametrize(
    ("candidates", "wanted", "said"),
    [
        ([Candidate("triton", lambda: 1 / 0, "not here"), RIGHT], "triton", "not triton: not here"),
        ([Candidate("triton", lambda: (Raises(), EAGER)), RIGHT], "triton", "it raised RuntimeErr"),
        ([RIGHT], "flash_attn", "there is no such backend on cpu"),
        ([Candidate("sdpa", lambda: (WrongScale(), EAGER))], "auto", "results are off by"),
    ],
    ids=["missing", "broken", "unknown", "none"],
)
def test_one_that_is_wanted_and_cannot_be_is_refused(config, candidates, wanted, said):
    with pytest.raises(CheckpointError, match=f"attention is '{wanted}'") as raised:
        choose(candidates, wanted, config, torch.float32, CPU)

    assert said in str(raised.value)


def test_one_that_is_wanted_is_taken_before_a_faster_one(config):
    fast = Candidate("cpu", lambda: (SdpaBackend(32), EAGER))

    backend, _ = choose([fast, RIGHT], "sdpa", config, torch.float32, CPU)

    assert backend.block_size == 16


@pytest.mark.parametrize(
    ("dtype", "capability", "possible"),
    [
        (torch.bfloat16, (9, 0), {"flash_attn", "triton", "sdpa"}),
        (torch.float16, (8, 0), {"flash_attn", "triton", "sdpa"}),
        (torch.float32, (9, 0), {"triton", "sdpa"}),
        (torch.float16, (7, 5), {"sdpa"}),
        (torch.float16, (7, 0), {"sdpa"}),
    ],
    ids=["H100", "A100", "wide", "T4", "V100"],
)
def test_a_card_gets_what_it_can_run(dtype, capability, possible):
    """Whether the packages are installed aside."""
    found = {
        c.name
        for c in cuda_candidates(dtype, capability, EAGER, float8=False)
        if c.lacking is None or "is not installed" in c.lacking
    }

    assert found == possible


def test_a_processor_without_kernels_or_compiler_has_plain_attention():
    names = [
        c.name for c in cpu_candidates(None, compiles=False, float8=False) if c.lacking is None
    ]

    assert names == ["sdpa"]


def rotated(spoil: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    """The plain rotation, given other angles or slots."""

    def rotate_and_write(qkv, cos, sin, cache, slots):
        cos, sin, slots = spoil(cos, sin, slots)
        return EAGER.rotate_and_write(qkv, cos, sin, cache, slots)

    return rotate_and_write


def wrong_piece(**pieces: Callable[..., Tensor]) -> Kernels:
    return replace(EAGER, **pieces)


@pytest.mark.parametrize(
    "kernels",
    [
        wrong_piece(rms_norm=lambda x, w, eps: EAGER.rms_norm(x, w + 0.1, eps)),
        wrong_piece(swiglu=lambda x: EAGER.swiglu(x.roll(1, -1))),
        wrong_piece(add_rms_norm=lambda x, r, w, eps: EAGER.add_rms_norm(x, r * 1.1, w, eps)),
        wrong_piece(swiglu=lambda x: EAGER.swiglu(x) / 0 * 0),
        wrong_piece(rotate_and_write=rotated(lambda cos, sin, slots: (cos, -sin, slots))),
        wrong_piece(
            rotate_and_write=rotated(lambda cos, sin, slots: (cos, sin.roll(1, -1), slots))
        ),
        wrong_piece(rotate_and_write=rotated(lambda cos, sin, slots: (cos, sin, slots.roll(1)))),
    ],
    ids=["norm", "swiglu", "sum", "nan", "sense", "pairs", "place"],
)
def test_a_wrong_piece_is_off_by_more_than_is_allowed(config, kernels):
    assert pieces_error(EAGER, config, torch.bfloat16, CPU) == 0
    assert not pieces_error(kernels, config, torch.bfloat16, CPU) <= TOLERANCES[torch.bfloat16]


@pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")
def test_kernels_that_fail_give_way_to_plain_torch_and_say_why(config, caplog):
    """A device that is not there stands for a compiler that is not: both raise in the first use."""
    assert cuda_kernels(config, torch.bfloat16, torch.device("meta")) is EAGER

    (line,) = [record.message for record in caplog.records]
    assert re.fullmatch(r"no Triton kernels: they raised \w+: \w.{10,}", line), line
    assert "\n" not in line


@pytest.mark.parametrize("attention", ["sdpa", "flash_attn"])
def test_the_engine_is_built_with_what_is_asked_for(tiny, caplog, attention):
    wanted = EngineConfig(tiny, device="cpu", kv_cache_bytes=64 << 20, attention=attention)
    if attention == "sdpa":
        with caplog.at_level(logging.INFO):
            build_engine(wanted, lambda done, total: None)
        assert "attention: sdpa" in caplog.text
        return
    with pytest.raises(CheckpointError, match="attention is 'flash_attn'"):
        build_engine(wanted, lambda done, total: None)


def test_a_cache_in_8_bits_goes_to_backends_that_read_it(tiny, caplog):
    names = [
        c.name
        for candidates in (
            cuda_candidates(torch.bfloat16, (9, 0), EAGER, float8=True),
            cpu_candidates(None, compiles=True, float8=True),
        )
        for c in candidates
        if c.lacking is None or "is not installed" in c.lacking
    ]
    assert set(names) == {"triton", "sdpa"}

    wanted = EngineConfig(tiny, device="cpu", kv_cache_bytes=64 << 20, kv_cache_dtype="fp8")
    with caplog.at_level(logging.INFO):
        narrow = build_engine(wanted, lambda done, total: None).stats().num_blocks
    assert "attention: sdpa" in caplog.text
    wide = build_engine(replace(wanted, kv_cache_dtype="auto"), lambda done, total: None).stats()
    assert narrow > 3.5 * wide.num_blocks  # of float32

    with pytest.raises(CheckpointError, match="it reads no cache in 8 bits"):
        build_engine(replace(wanted, attention="cpu"), lambda done, total: None)


@pytest.mark.parametrize("wrong", ["future", "scale", "stale", "padding"])
def test_what_is_wrong_in_8_bits_is_off_by_more(config, wrong):
    right = largest_error(SdpaBackend(), EAGER, config, torch.bfloat16, CPU, float8=True)
    error = largest_error(WRONG[wrong](), EAGER, config, torch.bfloat16, CPU, float8=True)

    assert right < TOLERANCES[torch.bfloat16]
    assert not error <= TOLERANCES[torch.bfloat16]
