"""Whether a step replayed as a captured graph gives what the same step gives run plainly: both are
run on the same rows and the same cache, step after step, and compared."""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from model_config import from_checkpoint
from scoring.engine import Engine
from scoring.engine_config import DtypeName
from scoring.errors import CheckpointError
from scoring.model_runner import LaunchedRows, ModelRunner
from scoring.scheduler import ScheduledRow
from scoring.sequence import Sequence

from ..systems import run_to_end
from .inside import RunnerAround, can_capture, eagerly, is_captured, replays, runner_of, running
from .lab import Backend, Lab
from .prompts import noise, picture_sequence, text_sequence
from .table import Row, failed, skipped

CHECK = "graphs"
# A graph may be padded to more rows, for which a GPU's matrix products add up in another order.
_BOUND_FLOAT32, _BOUND_HALF = 1e-4, 0.1
# Tokens of the texts' prompts and of their answers: rows join and leave, so that graphs of several
# sizes are replayed.
_LENGTHS = ((7, 9), (40, 15), (90, 12), (130, 21), (16, 5), (33, 30))
_MAX_MODEL_LEN, _MAX_NUM_SEQS = 1024, 8


class Rerun:
    """A graph for machines without CUDA: it runs the work again."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.replay = work


class _BothWays(RunnerAround):
    """Runs every step that is replayed once more, eagerly, and compares the logits."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner)
        self.num_rows: list[int] = []
        self.errors: list[Tensor] = []
        self.parted: list[Tensor] = []

    def see(self, rows: Items[ScheduledRow], launched: LaunchedRows) -> None:
        if launched.logits is None or not replays(self.runner, rows):
            return
        with eagerly(self.runner):
            eager = self.runner.launch(rows).logits
        assert eager is not None
        self.num_rows.append(len(rows))
        # Left on the device: waiting for them would hold up the steps that are to overlap.
        self.errors.append((launched.logits - eager).abs().max())
        self.parted.append((launched.logits.argmax(-1) != eager.argmax(-1)).sum())


def check_graphs(lab: Lab, backend: Backend) -> Iterator[Row]:
    dtypes: tuple[DtypeName, ...] = ("float32", lab.half)
    for dtype in dtypes:
        subject = f"{backend.name}, {dtype}"
        try:
            engine = lab.build(
                lab.tiny,
                dtype,
                max_num_seqs=_MAX_NUM_SEQS,
                max_model_len=_MAX_MODEL_LEN,
                **backend.options,
            )
        except CheckpointError as error:
            yield skipped(CHECK, subject, str(error))
            continue
        if not can_capture(engine):
            yield skipped(CHECK, subject, "this backend's steps cannot be captured")
            continue
        yield from _compare(lab, engine, dtype, subject)


def _compare(lab: Lab, engine: Engine, dtype: DtypeName, subject: str) -> Iterator[Row]:
    runner = runner_of(engine)
    note = ""
    if not is_captured(runner):
        runner.capture(Rerun, _MAX_MODEL_LEN)
        note = "no CUDA: the steps are run again over the same buffers"
    both = _BothWays(runner)
    with running(engine, both):
        run_to_end(engine, _sequences(lab))
    if not both.errors:
        yield failed(CHECK, subject, "no step was replayed")
        return
    is_exact = dtype == "float32"
    yield Row(CHECK, subject, "steps replayed", len(both.errors), at_least=1, note=note)
    yield Row(
        CHECK, subject, "largest logit difference", float(torch.stack(both.errors).max()),
        at_most=_BOUND_FLOAT32 if is_exact else _BOUND_HALF,
    )  # fmt: skip
    yield Row(
        CHECK, subject, f"tokens that differ, of {sum(both.num_rows)}",
        int(torch.stack(both.parted).sum()),
        at_most=0 if is_exact else None,
        note="" if is_exact else "rounding may part them",
    )  # fmt: skip


def _sequences(lab: Lab) -> list[Sequence]:
    vision = from_checkpoint(lab.tiny).vision
    texts = [text_sequence(i, *lengths) for i, lengths in enumerate(_LENGTHS)]
    return [*texts, picture_sequence(noise(vision, 1, 1), 1, 18)]
