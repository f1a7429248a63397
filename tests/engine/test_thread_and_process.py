"""One engine, a real one, in a thread and in a process: nobody can tell which from outside."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

from model_config import ModelConfig, from_checkpoint
from scoring.async_engine import AsyncEngine
from scoring.engine_client import EngineState
from scoring.engine_config import EngineConfig
from scoring.errors import ContextLengthError, EngineDeadError, InvalidSequenceError
from scoring.image_processor import to_hd_picture
from scoring.random_checkpoint import write_demo_checkpoint
from scoring.sequence import ImageSpan, SamplingParams, Sequence, TokenOutput

from .engine_processes import outputs_of, tokens_of, until
from .scripted import make_sequence

T = TypeVar("T")


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """Of few cores, shared with other tests: threads that wait for each other would crawl."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints") / "demo"
    write_demo_checkpoint(directory)
    return directory


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ModelConfig:
    return from_checkpoint(checkpoint)


async def built(checkpoint: Path, *, own_process: bool) -> AsyncEngine:
    """An engine whose building has ended one way or the other."""
    config = EngineConfig(checkpoint, max_num_seqs=8, kv_cache_bytes=64 << 20)
    engine = AsyncEngine(config, max_queued=8, own_process=own_process)
    engine.start()
    await until(lambda: engine.state is not EngineState.LOADING, 120)
    return engine


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """The event loop that the module's engines live in."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engines(checkpoint: Path, loop: asyncio.Runner) -> Iterator[tuple[AsyncEngine, AsyncEngine]]:
    """In a thread, in a process."""
    both = [loop.run(built(checkpoint, own_process=own_process)) for own_process in (False, True)]
    assert [engine.state for engine in both] == [EngineState.READY] * 2
    yield both[0], both[1]
    for engine in both:
        loop.run(engine.stop())


async def from_both(
    engines: tuple[AsyncEngine, AsyncEngine], ask: Callable[[AsyncEngine], Awaitable[T]]
) -> tuple[T, T]:
    """One after the other, for the same answers at the same moments of their lives."""
    return await ask(engines[0]), await ask(engines[1])


def assert_alike(in_thread: list[TokenOutput], in_process: list[TokenOutput]) -> None:
    """All fields; the log-probabilities but for rounding, as threads share work differently."""
    assert len(in_thread) == len(in_process)
    for one, other in zip(in_thread, in_process, strict=True):
        assert (one.token_id, one.finish_reason, one.num_cached, one.error) == (
            other.token_id, other.finish_reason, other.num_cached, other.error,
        )  # fmt: skip
        assert (one.logprobs is None) == (other.logprobs is None)
        if one.logprobs and other.logprobs:
            assert one.logprobs.sampled == pytest.approx(other.logprobs.sampled, abs=1e-4)
            assert [t for t, _ in one.logprobs.top] == [t for t, _ in other.logprobs.top]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=30),
        SamplingParams(max_tokens=30, temperature=0.9, top_p=0.8, seed=5, frequency_penalty=0.5),
        SamplingParams(max_tokens=8, logprobs=3),
    ],
    ids=["greedy", "sampled", "logprobs"],
)
def test_text_gets_the_same_tokens(engines, loop, params):
    prompt = [1, *range(270, 310)]

    async def ask(engine: AsyncEngine) -> list[TokenOutput]:
        return await outputs_of(engine, Sequence("text", list(prompt), params))

    in_thread, in_process = loop.run(from_both(engines, ask))
    assert len({output.token_id for output in in_thread}) > 1
    assert_alike(in_thread, in_process)


def test_a_picture_gets_the_same_tokens_and_another_picture_others(engines, loop, model):
    pixels = np.random.default_rng(3).integers(0, 256, (150, 330, 3), dtype=np.uint8)
    pictures = [
        to_hd_picture(Image.fromarray(values), model.vision) for values in (pixels, 255 - pixels)
    ]
    params = SamplingParams(max_tokens=12, logprobs=3)

    async def ask(engine: AsyncEngine) -> list[list[TokenOutput]]:
        answers = []
        for number, picture in enumerate(pictures):
            prompt = [1, 300, *[-1] * picture.num_tokens, 301, 302]
            sequence = Sequence(f"picture {number}", prompt, params, (ImageSpan(picture, 2),))
            answers.append(await outputs_of(engine, sequence))
        return answers

    in_thread, in_process = loop.run(from_both(engines, ask))
    for one, other in zip(in_thread, in_process, strict=True):
        assert_alike(one, other)
    assert in_process[0][0].logprobs != in_process[1][0].logprobs


def test_many_at_once_get_what_each_gets_alone(engines, loop):
    def sequences() -> list[Sequence]:
        return [make_sequence(str(n), [1, 300 + n, 340 - n], max_tokens=10 + n) for n in range(12)]

    async def ask(engine: AsyncEngine) -> list[list[int | None]]:
        together = [tokens_of(engine, sequence) for sequence in sequences()]
        return await asyncio.gather(*together)

    async def ask_singly(engine: AsyncEngine) -> list[list[int | None]]:
        return [await tokens_of(engine, sequence) for sequence in sequences()]

    in_thread, in_process = loop.run(from_both(engines, ask))
    assert in_thread == in_process == loop.run(ask_singly(engines[1]))


def test_the_door_refuses_alike(engines, loop):
    async def ask(engine: AsyncEngine) -> list[tuple[type[BaseException], str]]:
        prompts = ([], [-1], [10**6], [1] * engine.check_ready().max_model_len)
        errors = await asyncio.gather(
            *(tokens_of(engine, make_sequence(str(i), p)) for i, p in enumerate(prompts)),
            return_exceptions=True,
        )
        return [(type(error), str(error)) for error in errors]

    in_thread, in_process = loop.run(from_both(engines, ask))
    assert in_thread == in_process
    assert [kind for kind, _ in in_process] == [InvalidSequenceError] * 3 + [ContextLengthError]


def test_leaving_mid_stream_frees_the_blocks(engines, loop):
    async def ask(engine: AsyncEngine) -> None:
        outputs = engine.generate(make_sequence("a", [1, *range(258, 358)], max_tokens=5000))
        await anext(outputs)
        stats = engine.stats
        assert stats.num_blocks_free + stats.num_blocks_cached < stats.num_blocks
        await outputs.aclose()
        await until(lambda: engine.stats.num_running == 0, 5)
        stats = engine.stats
        assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks

    loop.run(from_both(engines, ask))


def test_a_broken_checkpoint_gives_the_same_reason(checkpoint, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(checkpoint / name, tmp_path)

    async def failure(*, own_process: bool) -> str | None:
        engine = await built(tmp_path, own_process=own_process)
        assert engine.state is EngineState.FAILED
        assert engine.stopped.is_set()
        with pytest.raises(EngineDeadError):
            engine.check_ready()
        await engine.stop()
        return engine.failure

    in_thread, in_process = (asyncio.run(failure(own_process=own)) for own in (False, True))
    assert in_thread == in_process
    assert "model.safetensors" in in_process
