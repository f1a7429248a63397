"""The engine's life, wherever it runs: build it, serve calls step by step, say how it ended."""

import logging
import pkgutil
from typing import TYPE_CHECKING

from model_config import ModelConfigError

from .engine_config import EngineConfig
from .engine_link import (
    Abort,
    BuildEngine,
    Ended,
    EngineChannel,
    Outputs,
    Progress,
    Ready,
    Stop,
    to_refused,
)
from .errors import ScoringError

if TYPE_CHECKING:
    from .engine import Engine

logger = logging.getLogger(__name__)

BUILD_ENGINE = "scoring.engine_builder:build_engine"


def run_engine(config: EngineConfig, build: BuildEngine | str, channel: EngineChannel) -> None:
    """Return when the channel says Stop, or when something goes wrong; either is told.

    build: a function, or the "module:name" of one, imported here: the real one imports torch,
    which takes seconds.
    """
    channel.tell(Ended(_run(config, build, channel)))


def _run(config: EngineConfig, build: BuildEngine | str, channel: EngineChannel) -> str | None:
    """What went wrong, or None."""
    try:
        if isinstance(build, str):
            build = _named(build)
        engine = build(config, lambda done, total: channel.tell(Progress(done, total)))
    except (ScoringError, ModelConfigError) as error:
        return str(error)
    except Exception as error:
        logger.exception("the engine could not be built")
        return f"unexpected {type(error).__name__}"
    channel.tell(Ready(engine.limits, engine.stats(), engine.description))
    try:
        _serve(engine, channel)
    except Exception as error:
        logger.exception("the engine's loop died")
        return f"unexpected {type(error).__name__}"
    return None


def _serve(engine: "Engine", channel: EngineChannel) -> None:
    """Take calls, step, tell; sleep when there is nothing to do."""
    while True:
        wait = not engine.has_work
        while (call := channel.next_call(wait=wait)) is not None:
            wait = False
            if isinstance(call, Stop):
                return
            if isinstance(call, Abort):
                engine.abort(call.sequence_id)
                continue
            try:
                engine.add(call)
            except ScoringError as error:
                channel.tell(to_refused(call.id, error))
        outputs = engine.step()
        channel.tell(Outputs(outputs, engine.stats()))


def _named(name: str) -> BuildEngine:
    build: BuildEngine = pkgutil.resolve_name(name)
    return build
