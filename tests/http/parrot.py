"""A server in this process whose model is a parrot: it answers with what the user said last.

HTTP, the processor, the scheduler and the block manager are the product's own; only the tensors
are not there. So answers are known, steps can be slow or fail on purpose, and are counted.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import uvicorn

from model_config import card_for, from_checkpoint
from scoring.async_engine import AsyncEngine
from scoring.engine import Engine
from scoring.engine_builder import assemble
from scoring.engine_config import EngineConfig
from scoring.grammar_checker import GrammarChecker
from scoring.picture_encoder import FeatureCache
from scoring.prompt import PromptBuilder, load_tokenizer
from scoring.scheduler import SampledToken, ScheduledRow
from scoring.sequence import Sequence
from server.app import create_app
from server.entra import EntraTokens
from server.http_protocol import HTTPProtocol
from server.image_fetcher import ImageFetcher
from server.serving import to_processor
from server.settings import Settings

from ..engine.scripted import StepAtOnce
from .running_server import Endpoint, wait_until

BLOCK_SIZE = 16


class Parrot:
    """Runs where ModelRunner does. step_s: how long each step takes. fault: called with every row
    of a step before it runs; what it raises, the step raises."""

    num_pictures_encoded = 0
    device = torch.device("cpu")

    def __init__(
        self,
        checkpoint: Path,
        *,
        step_s: float = 0.0,
        fault: Callable[[ScheduledRow], None] | None = None,
    ) -> None:
        tokenizer = load_tokenizer(checkpoint).backend_tokenizer
        self.vocab_size = tokenizer.get_vocab_size()
        self.features = FeatureCache(0)
        self.rows_of_steps: list[list[str]] = []
        self._user, self._end = (tokenizer.token_to_id(t) for t in ("<|user|>", "<|end|>"))
        self.step_s = step_s
        self._fault = fault

    @property
    def num_steps(self) -> int:
        """Steps that have begun."""
        return len(self.rows_of_steps)

    def launch(self, rows: list[ScheduledRow]) -> StepAtOnce:
        return StepAtOnce(self._execute, rows)

    def _execute(self, rows: list[ScheduledRow]) -> list[SampledToken | None]:
        self.rows_of_steps.append([row.sequence.id for row in rows])
        time.sleep(self.step_s)
        if self._fault is not None:
            for row in rows:
                self._fault(row)
        return [SampledToken(self._next_token(row.sequence)) if row.emits else None for row in rows]

    def release_memory(self) -> None:
        """There is none."""

    def _next_token(self, sequence: Sequence) -> int:
        prompt = sequence.token_ids[: sequence.num_prompt_tokens]
        if self._user not in prompt:
            return self._end
        start = len(prompt) - prompt[::-1].index(self._user)
        end = prompt.index(self._end, start)
        # The turn's text follows the tokens of a line break, "▁" and "<0x0A>". Pictures lie in it
        # as negative ids.
        said = [*(token for token in prompt[start + 2 : end] if token >= 0), self._end]
        return said[min(sequence.num_output_tokens, len(said) - 1)]


class ParrotServer(Endpoint):
    """The server around a parrot."""

    def __init__(
        self,
        base_url: str,
        parrot: Parrot,
        loop: asyncio.AbstractEventLoop,
        api_key: str | None = None,
    ) -> None:
        super().__init__(base_url, api_key)
        self.parrot = parrot
        self._loop = loop

    def tasks(self) -> list[str]:
        """What its event loop is busy with, by the coroutines' names."""

        async def names() -> list[str]:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            coroutines = sorted(str(task.get_coro()).split()[2] for task in others)
            # Loading.report ends by itself, a moment after the engine is ready.
            return [name for name in coroutines if name != "Loading.report"]

        return asyncio.run_coroutine_threadsafe(names(), self._loop).result(10)


@contextmanager
def parrot_server(
    checkpoint: Path,
    parrot: Parrot,
    *,
    max_num_seqs: int = 32,
    max_queued: int = 128,
    max_queued_tokens: int | None = None,
    max_model_len: int = 1024,
    prompt_builder: type[PromptBuilder] = PromptBuilder,
    image_fetcher: ImageFetcher | None = None,
    tokens: EntraTokens | None = None,
    **settings: Any,
) -> Iterator[ParrotServer]:
    """uvicorn in a thread, on a loopback port."""
    config = EngineConfig(checkpoint, max_num_seqs=max_num_seqs)
    model = from_checkpoint(checkpoint)

    def build(config: EngineConfig, progress: Any) -> Engine:
        num_blocks = 8 * max_model_len // BLOCK_SIZE
        return assemble(config, model, parrot, num_blocks, BLOCK_SIZE, max_model_len)  # type: ignore[arg-type]

    loops: list[asyncio.AbstractEventLoop] = []

    def make_engine() -> AsyncEngine:
        loops.append(asyncio.get_running_loop())
        return AsyncEngine(
            config, max_queued=max_queued, max_queued_tokens=max_queued_tokens, build=build
        )

    with threaded_server(
        checkpoint,
        make_engine,
        prompt_builder,
        image_fetcher=image_fetcher,
        tokens=tokens,
        **settings,
    ) as (base_url, _):
        server = ParrotServer(
            base_url, parrot, loops[0], (settings.get("api_key") or "").split(",")[0] or None
        )
        server.remember_golden()
        yield server


@contextmanager
def threaded_server(
    checkpoint: Path,
    make_engine: Callable[[], AsyncEngine],
    prompt_builder: type[PromptBuilder] = PromptBuilder,
    *,
    image_fetcher: ImageFetcher | None = None,
    tokens: EntraTokens | None = None,
    **settings: Any,
) -> Iterator[tuple[str, list[str]]]:
    """The application, served by uvicorn in a thread: its address, and the list of failures that
    its engine reports. Yields once the engine is no longer loading."""
    chosen = Settings(port=0, **settings)
    model = from_checkpoint(checkpoint)
    card, tokenizer = card_for(model.name_or_path), load_tokenizer(checkpoint)
    prompts = prompt_builder(tokenizer, card, model.vision)
    grammars = GrammarChecker(checkpoint / "tokenizer.json", prompts.stop_token_ids)
    processor = to_processor(chosen, card, tokenizer, prompts, grammars)
    if image_fetcher is not None:
        processor = replace(processor, image_fetcher=image_fetcher)
    failures: list[str] = []
    app = create_app(chosen, processor, make_engine, failures.append, tokens)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=partial(  # type: ignore[arg-type]
                HTTPProtocol, max_receive_s=chosen.max_receive_s, max_stall_s=chosen.max_stall_s
            ),
            port=0,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=int(chosen.drain_s),
        )
    )
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), 20, "uvicorn has started")
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        wait_until(lambda: app.state.engine.state != "loading", 20, "the engine is built")
        yield f"http://{host}:{port}", failures
    finally:
        server.should_exit = True
        thread.join()
