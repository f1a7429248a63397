"""The one place where the checks reach into an engine: to watch its steps, and to turn captured
steps off and on. No other program should."""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from typing import Any

from scoring.engine import Engine
from scoring.model_runner import LaunchedRows, ModelRunner
from scoring.scheduler import ScheduledRow
from scoring.step import LaunchedStep


class RunnerAround:
    """A Runner, in the sense of step.py, that passes everything on: for subclasses that watch."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.vocab_size = runner.vocab_size
        self.features = runner.features

    @property
    def num_pictures_encoded(self) -> int:
        return self.runner.num_pictures_encoded

    def launch(self, rows: Items[ScheduledRow]) -> LaunchedStep:
        launched = self.runner.launch(rows)
        self.see(rows, launched)
        return launched

    def see(self, rows: Items[ScheduledRow], launched: LaunchedRows) -> None:
        """A step has been launched; its logits are not overwritten yet."""

    def release_memory(self) -> None:
        self.runner.release_memory()


@contextmanager
def running(engine: Engine, around: RunnerAround) -> Iterator[None]:
    """Within it, the engine's steps go through the runner around its own."""
    inside: Any = engine
    inside._runner = around
    try:
        yield
    finally:
        inside._runner = around.runner


def runner_of(engine: Engine) -> ModelRunner:
    inside: Any = engine
    runner: ModelRunner = inside._runner
    return runner


def backend_name(engine: Engine) -> str:
    inside: Any = runner_of(engine)
    return str(inside._attention.name)


def num_cache_tokens(engine: Engine) -> int:
    """What the blocks hold."""
    inside: Any = engine
    blocks = inside._scheduler.blocks
    return int(blocks.num_blocks * blocks.block_size)


def can_capture(engine: Engine) -> bool:
    inside: Any = runner_of(engine)
    return bool(inside._attention.can_capture)


def is_captured(runner: ModelRunner) -> bool:
    inside: Any = runner
    return inside._static is not None


def replays(runner: ModelRunner, rows: Items[ScheduledRow]) -> bool:
    """Whether the runner runs such a step as a graph."""
    inside: Any = runner
    wanted = [row for row in rows if row.num_tokens]
    return inside._static is not None and bool(inside._static.fits(wanted))


@contextmanager
def eagerly(runner: ModelRunner) -> Iterator[None]:
    """Within it, no step is run as a graph."""
    inside: Any = runner
    kept, inside._static = inside._static, None
    try:
        yield
    finally:
        inside._static = kept
