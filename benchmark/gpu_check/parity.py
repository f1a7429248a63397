"""Whether a backend computes what the reference does, through the whole engine: logits after text
and pictures, in both rope regimes, many prompts side by side; and greedy runs, token by token."""

from collections.abc import Iterator

import numpy as np
import torch

from model_config import from_checkpoint
from scoring.engine import Engine
from scoring.engine_config import DtypeName
from scoring.errors import CheckpointError

from .cases import Case, golden_cases, logits_and_tokens, own_cases
from .inside import backend_name
from .lab import Backend, Lab
from .table import Row, failed, skipped

CHECK = "parity"
# float32: the published code on a CPU adds up in nearly our order; a GPU does not, and has cosines
# of its own. Half precision, and keys and values in 8 bits: a few times what they cost on a CPU.
_BOUND_CPU, _BOUND_CUDA, _BOUND_HALF, _BOUND_FLOAT8 = 2e-5, 1e-4, 0.3, 1.0


def check_parity(lab: Lab, backend: Backend) -> Iterator[Row]:
    # Convolutions round float32 to 10 bits by default; the bound is for float32 as it is.
    torch.backends.cudnn.allow_tf32 = False
    cases = _cases(lab)
    dtypes: tuple[DtypeName, ...] = ("float32", lab.half)
    for dtype in dtypes:
        subject = f"{backend.name}, {dtype}"
        try:
            engine = lab.build(lab.tiny, dtype, **backend.options)
        except CheckpointError as error:
            yield skipped(CHECK, subject, str(error))
            continue
        is_exact = dtype == "float32" and not backend.has_float8
        bound = _BOUND_FLOAT8 if backend.has_float8 else _BOUND_HALF
        if is_exact:
            bound = _BOUND_CPU if lab.device == "cpu" else _BOUND_CUDA
        yield from _compare(engine, cases, subject, bound, is_exact)


def _cases(lab: Lab) -> list[Case]:
    effort = lab.effort
    if lab.golden is None:
        return own_cases(lab.tiny, with_long=effort.cases is None)
    return golden_cases(lab.golden, from_checkpoint(lab.tiny).vision, effort.cases)


def _compare(
    engine: Engine, cases: list[Case], subject: str, bound: float, is_exact: bool
) -> Iterator[Row]:
    """is_exact: whether the greedy runs must be equal, too."""
    sequences = [case.to_sequence() for case in cases]
    logits, tokens = logits_and_tokens(engine, sequences)
    errors, num_equal, num_runs = {}, 0, 0
    for case, sequence in zip(cases, sequences, strict=True):
        if case.logits is not None:
            errors[case.name] = float(np.abs(logits[sequence.id] - case.logits).max())
        if case.tokens:
            num_runs += 1
            num_equal += tokens[sequence.id] == case.tokens
    if not errors or not num_runs:
        yield failed(CHECK, subject, "there is nothing to compare with")
        return
    attention = f"attention {backend_name(engine)}"
    # NaN must not hide behind a number: max() may pass over it.
    worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    yield Row(
        CHECK, subject, f"largest logit error of {len(errors)} prompts", errors[worst],
        at_most=bound, note=f"{attention}, {worst}",
    )  # fmt: skip
    yield Row(
        CHECK, subject, f"greedy runs equal, of {num_runs}", num_equal,
        at_least=num_runs if is_exact else None,
        note="" if is_exact else "rounding may part them",
    )  # fmt: skip
