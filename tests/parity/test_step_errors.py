"""Steps of the tiny model that run out of memory, or fail otherwise, somewhere on their way: who is
to blame fails, everybody else says what he says alone, and nothing stays behind."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from scoring.engine import Engine
from scoring.engine_builder import assemble
from scoring.engine_config import EngineConfig
from scoring.kv_cache import KVCache
from scoring.model_runner import ModelRunner
from scoring.models.attention.sdpa import SdpaBackend
from scoring.sequence import Failure, FinishReason, ImageSpan, SamplingParams, Sequence
from scoring.step_errors import StepError, kind_of

from .test_generation import assert_idle

BLOCK_SIZE, NUM_BLOCKS = 16, 400
NUM_TOKENS = 130
Said = dict[str, tuple[list[int | None], FinishReason, Failure | None]]


def take_too_much() -> None:
    """The allocator's own words, rather than ours."""
    torch.empty(1 << 50)


class Trap:
    """Lets the culprit's steps of one kind go wrong, from its nth on, or that one only."""

    def __init__(
        self, kind: str, nth: int, *, once: bool, fault: Callable[[], None] = take_too_much
    ) -> None:
        self.kind, self.nth, self.once, self.fault = kind, nth, once, fault
        self.num_seen = self.num_raised = 0
        self.is_armed = False

    def look(self, rows) -> None:
        """At the rows of a step that begins."""
        hit = any(row.sequence.id == "culprit" and self._is_meant(row) for row in rows)
        self.num_seen += hit and self.num_raised == 0
        self.is_armed = hit and self.num_seen >= self.nth and not (self.once and self.num_raised)

    def _is_meant(self, row) -> bool:
        if self.kind == "picture":
            return bool(row.encoder_jobs)
        return row.num_tokens == 1 if self.kind == "decode" else row.num_tokens > 1

    def spring(self, *_: object) -> None:
        """A hook, before a module runs."""
        if self.is_armed:
            self.is_armed = False
            self.num_raised += 1
            activations = torch.ones(4 << 20)  # which the exception's frames keep, if it is kept
            self.fault()
            del activations


@contextmanager
def trapped(model, trap: Trap) -> Iterator[Trap]:
    """Before the last thing that such a step computes, when most is there that could be lost."""
    if trap.kind == "picture":
        modules = [m for m in model.tower.modules() if type(m).__name__ == "ClipLayer"]
    else:
        modules = [model.model.layers[-1]]
    hooks = [module.register_forward_pre_hook(trap.spring) for module in modules]
    assert hooks
    try:
        yield trap
    finally:
        for hook in hooks:
            hook.remove()


class WatchedRunner(ModelRunner):
    """Lets a trap look at every step."""

    trap: Trap | None = None

    def launch(self, rows):
        if self.trap is not None:
            self.trap.look(rows)
        return super().launch(rows)


@pytest.fixture(scope="module")
def make_engine(model, config) -> Callable[..., Engine]:
    """Prompts and pictures come in pieces so small that there are a hundred steps of each kind."""

    def make(trap: Trap | None = None, *, overlap: bool = False) -> Engine:
        cache = KVCache(config, NUM_BLOCKS, BLOCK_SIZE, torch.float32, torch.device("cpu"))
        cache.data.fill_(torch.nan)
        runner = WatchedRunner(
            model, cache, SdpaBackend(BLOCK_SIZE), feature_cache_bytes=8 << 20, max_num_seqs=8
        )
        runner.trap = trap
        limits = EngineConfig(Path("not", "read"), max_num_seqs=8, prompt_share=3)
        return assemble(limits, config, runner, NUM_BLOCKS, BLOCK_SIZE, 4096, overlap=overlap)

    return make


@pytest.fixture(scope="module")
def make_sequences(golden) -> Callable[[], list[Sequence]]:
    """One who writes all the time, the culprit, with a long text and a picture, and one who looks
    at the same picture."""

    def make() -> list[Sequence]:
        rng = random.Random(4)
        picture = golden.picture("square_500x500")
        slots = [-1] * picture.num_tokens
        prompts = {
            "writer": [rng.randrange(32000) for _ in range(20)],
            "culprit": [1, *(rng.randrange(32000) for _ in range(320)), *slots, 2],
            "viewer": [1, *slots, 3],
        }
        return [
            Sequence(
                name,
                prompt,
                SamplingParams(max_tokens=NUM_TOKENS),
                (ImageSpan(picture, prompt.index(-1)),) if -1 in prompt else (),
            )
            for name, prompt in prompts.items()
        ]

    return make


def run(engine: Engine, sequences: Iterable[Sequence]) -> Said:
    """The writer, who comes first, sees to it that the others' prompts come in small pieces."""
    tokens: dict[str, list[int | None]] = {}
    said: Said = {}
    for sequence in sequences:
        tokens[sequence.id] = []
        engine.add(sequence)
        collect(engine.step(), tokens, said)
    for _ in range(2000):
        if not engine.has_work:
            break
        collect(engine.step(), tokens, said)
    assert said.keys() == tokens.keys()
    assert_idle(engine)
    return said


def collect(outputs, tokens: dict[str, list[int | None]], said: Said) -> None:
    for output in outputs:
        tokens[output.sequence_id].append(output.token_id)
        if output.finish_reason is not None:
            said[output.sequence_id] = (
                tokens[output.sequence_id],
                output.finish_reason,
                output.failure,
            )


@pytest.fixture(scope="module")
def alone(make_engine, make_sequences) -> Said:
    """What each of them says by himself."""
    said: Said = {}
    for sequence in make_sequences():
        said |= run(make_engine(), [sequence])
    return said


# A crop's way through the tower is cut into more pieces than the tiny tower has layers.
KINDS_AND_STEPS = [("picture", 1), ("picture", 2), ("picture", 50)]
KINDS_AND_STEPS += [(kind, nth) for kind in ("prefill", "decode") for nth in (1, 2, 100)]


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlap"])
@pytest.mark.parametrize(("kind", "nth"), KINDS_AND_STEPS)
def test_who_runs_out_of_memory_fails_alone(
    model, make_engine, make_sequences, alone, kind, nth, overlap
):
    with trapped(model, Trap(kind, nth, once=False)) as trap:
        said = run(make_engine(trap, overlap=overlap), make_sequences())

    tokens, reason, failure = said.pop("culprit")
    assert (reason, failure) == (FinishReason.ERROR, Failure.MEMORY)
    assert tokens == [*alone["culprit"][0][: len(tokens) - 1], None]
    assert len(tokens) == (nth + 1 if kind == "decode" else 1)
    assert said == {name: alone[name] for name in ("writer", "viewer")}
    assert trap.num_raised == 2  # in company, and by himself


@pytest.mark.parametrize(("kind", "nth"), KINDS_AND_STEPS)
def test_a_shortage_that_passes_costs_nobody_anything(
    model, make_engine, make_sequences, alone, kind, nth
):
    with trapped(model, Trap(kind, nth, once=True)) as trap:
        said = run(make_engine(trap, overlap=True), make_sequences())

    assert trap.num_raised == 1
    assert said == alone


def test_who_runs_out_of_memory_with_nobody_beside_him_never_fits(
    model, make_engine, make_sequences
):
    _, culprit, _ = make_sequences()
    with trapped(model, Trap("prefill", 1, once=False)) as trap:
        engine = make_engine(trap)
        said = run(engine, [culprit])

    assert said == {"culprit": ([None], FinishReason.ERROR, Failure.NEVER_FITS)}
    assert trap.num_raised == 2  # once more when all memory had been given back
    assert engine.stats().feature_cache_bytes == 0


def test_another_failure_is_not_tried_twice_and_not_called_a_shortage(
    model, make_engine, make_sequences
):
    def fault() -> None:
        raise IndexError("a bug")

    _, culprit, _ = make_sequences()
    with trapped(model, Trap("decode", 3, once=False, fault=fault)) as trap:
        said = run(make_engine(trap), [culprit])

    assert said["culprit"][1:] == (FinishReason.ERROR, Failure.MODEL)
    assert trap.num_raised == 1


def anonymous_bytes() -> int:
    """RssAnon: what this process has of memory that no file backs."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line
    )
    return int(line.split()[1]) << 10


def test_a_hundred_shortages_leave_no_memory_taken(model, make_engine):
    """Each dies with 16 MiB in its frames: who keeps exceptions would have 1.6 GiB in the end."""
    trap = Trap("decode", 1, once=False)
    with trapped(model, trap):
        engine = make_engine(trap)
        sizes = []
        for _ in range(105):
            trap.num_raised = trap.num_seen = 0
            run(engine, [Sequence("culprit", [1, 2, 3], SamplingParams(max_tokens=3))])
            assert trap.num_raised == 2
            sizes.append(anonymous_bytes())

    assert sizes[-1] - sizes[5] < 32 << 20


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "MEMORY"),
        (torch.AcceleratorError("CUDA error: out of memory"), "MEMORY"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), "MEMORY"),
        (MemoryError(), "MEMORY"),
        (OSError(12, "Cannot allocate memory"), "MEMORY"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "DEVICE"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "DEVICE"),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access"), "DEVICE"),
        (OSError(28, "No space left on device"), "OTHER"),
        (RuntimeError("The size of tensor a must match"), "OTHER"),
        (ValueError("out of memory"), "OTHER"),
    ],
    ids=str,
)
def test_what_an_exception_of_a_step_means(error, kind):
    assert kind_of(error) is StepError[kind]


def test_the_hosts_allocator_is_understood():
    with pytest.raises(RuntimeError) as raised:
        take_too_much()

    assert kind_of(raised.value) is StepError.MEMORY
