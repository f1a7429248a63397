"""Engines in processes of their own, around the toy engine unless a test names another, and what
they may leave behind."""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import psutil

from scoring.async_engine import AsyncEngine
from scoring.engine_client import EngineClient, EngineState
from scoring.engine_config import EngineConfig
from scoring.image_processor import HDPicture
from scoring.sequence import Sequence, TokenOutput

from . import toy_engine

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = EngineConfig(Path("not", "read"))
TIMEOUT_S = 60.0  # for what takes a second on an idle machine


async def until(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - it comes true in another process
            await asyncio.sleep(0.001)


async def started(build: str = "build", config: EngineConfig = CONFIG) -> AsyncEngine:
    """An engine whose process has just been started; build: a function of toy_engine's."""
    engine = AsyncEngine(config, max_queued=100, own_process=True, build=toy_engine.NAME + build)
    engine.start()
    return engine


@asynccontextmanager
async def running(build: str = "build") -> AsyncIterator[AsyncEngine]:
    """An engine that is ready; stopped afterwards."""
    engine = await started(build)
    try:
        await until(lambda: engine.state is not EngineState.LOADING)
        yield engine
    finally:
        await engine.stop()


def the_process() -> psutil.Process:
    """The one engine's process that this process has."""
    (process,) = the_processes()
    return process


def the_processes() -> list[psutil.Process]:
    """The engines' processes that this process has, the eldest first."""
    # Other tests' servers may be children of this process, too.
    children = [
        child
        for child in psutil.Process().children()
        if "scoring.engine_process" in child.cmdline()
    ]
    return sorted(children, key=lambda child: child.pid)


async def outputs_of(engine: EngineClient, sequence: Sequence) -> list[TokenOutput]:
    async with asyncio.timeout(TIMEOUT_S), aclosing(engine.generate(sequence)) as outputs:
        return [output async for output in outputs]


async def tokens_of(engine: EngineClient, sequence: Sequence) -> list[int | None]:
    return [output.token_id for output in await outputs_of(engine, sequence)]


def large_picture(seed: int) -> HDPicture:
    """5.4 MB, the largest that the genuine model takes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1344, 1344, 3), dtype=np.uint8)
    return HDPicture(pixels, b"digest", 10)


def has_ended(pid: int) -> bool:
    """Whether the process runs no longer; nobody may have asked for its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def seconds_until(condition: Callable[[], bool]) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < TIMEOUT_S
        time.sleep(0.005)
    return time.monotonic() - start


def belongings() -> dict[str, list[str]]:
    """What this process has that an engine might leave."""
    return {
        "processes": [str(child) for child in psutil.Process().children(recursive=True)],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "kernel threads": [str(len(os.listdir("/proc/self/task")))],
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "files": sorted(os.listdir(tempfile.gettempdir())),
    }
