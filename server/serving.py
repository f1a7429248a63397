"""Puts the parts together and runs them: the one file of this package that starts the engine."""

import logging
import signal
import sys
from functools import partial
from pathlib import Path

import uvicorn
from transformers import PreTrainedTokenizerFast

from model_config import Card, card_for, from_checkpoint, load_card
from scoring.async_engine import AsyncEngine
from scoring.engine_client import EngineClient
from scoring.engine_config import EngineConfig
from scoring.engine_group import EngineGroup
from scoring.errors import CheckpointError
from scoring.grammar_checker import GrammarChecker
from scoring.prompt import PromptBuilder, load_tokenizer
from scoring.weight_files import stored_tensors

from .app import create_app
from .completion import Processor
from .http_protocol import HTTPProtocol
from .http_server import CLOSE_S, DrainingServer
from .image_fetcher import ImageFetcher
from .listening import check_port
from .request_limits import request_limits
from .settings import Settings
from .tls import check_certificate

logger = logging.getLogger("phi3v")

SWITCH_INTERVAL_S = 0.0005
"""Of the interpreter's lock: threads that decode pictures hand it back to the event loop ten times
sooner than Python's own 5 ms."""


def run(settings: Settings, checkpoint: Path) -> None:
    """Serve until a signal. Listens at once; the weights load behind it.

    Raises CheckpointError when the engine could not be built; before it listens, SettingsError for
    an address that is taken and files that cannot be used, and ModelConfigError or CheckpointError
    for what the checkpoint's small files and the weights' headers already show.
    """
    check_certificate(settings)
    check_port(settings.host, settings.port)
    processor = load_processor(settings, checkpoint)
    engine_config = to_engine_config(settings, checkpoint)
    failures: list[str] = []

    def on_failure(failure: str) -> None:
        failures.append(failure)
        server.should_exit = True

    make_engine = partial(_engine, settings, engine_config)
    app = create_app(settings, processor, make_engine, on_failure, warms_up=True)
    server = DrainingServer(
        uvicorn.Config(
            app,
            http=partial(  # type: ignore[arg-type]
                HTTPProtocol,
                max_receive_s=settings.max_receive_s,
                max_stall_s=settings.max_stall_s,
            ),
            host=settings.host,
            port=settings.port,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            ws="none",  # no route speaks it, and what guards the routes speaks HTTP
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_S,
        ),
        drain=app.state.drain,
        drain_s=settings.drain_s,
        cut_off=lambda: app.state.engine.stop(),
    )
    logger.info("%s from %s", processor.card.served_name, checkpoint)
    if settings.log_prompts:
        logger.warning("what users write is logged (log_prompts)")
    # uvicorn ends at SIGTERM, then raises it again for whoever listened before: an end in good
    # order is exit code 0, as container platforms expect.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if settings.api_key_file:
        signal.signal(signal.SIGHUP, lambda *_: app.state.keys.reload())
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    server.run()
    if failures:
        raise CheckpointError(failures[0])


def _engine(settings: Settings, config: EngineConfig) -> EngineClient:
    """Called in the event loop."""
    if settings.data_parallel > 1:
        return EngineGroup(
            config,
            max_queued=settings.max_queued_requests,
            max_queued_tokens=settings.max_queued_tokens,
        )
    return AsyncEngine(
        config,
        max_queued=settings.max_queued_requests,
        max_queued_tokens=settings.max_queued_tokens,
        own_process=settings.engine_process,
    )


def load_processor(settings: Settings, checkpoint: Path) -> Processor:
    """The front half of the model in a checkpoint. Raises ModelConfigError or CheckpointError for
    what its small files and the weights' headers already show."""
    model = from_checkpoint(checkpoint)
    stored_tensors(checkpoint)
    card = load_card(settings.card) if settings.card else card_for(model.name_or_path)
    to_engine_config(settings, checkpoint).check_context(model.text.max_position_embeddings)
    tokenizer = load_tokenizer(checkpoint)
    prompts = PromptBuilder(tokenizer, card, model.vision)
    grammars = GrammarChecker(checkpoint / "tokenizer.json", prompts.stop_token_ids)
    return to_processor(settings, card, tokenizer, prompts, grammars)


def to_processor(
    settings: Settings,
    card: Card,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptBuilder,
    grammars: GrammarChecker,
) -> Processor:
    """The model's front half, bounded as the settings say."""
    return Processor(
        card,
        tokenizer,
        prompts,
        grammars,
        limits=request_limits(settings),
        image_fetcher=ImageFetcher(
            settings.allow_image_urls,
            max_bytes=settings.max_image_mib << 20,
            timeout_s=settings.image_url_timeout_s,
            max_fetches=settings.max_image_fetches,
        ),
        max_image_pixels=int(settings.max_image_megapixels * 1e6),
        max_queue_wait_s=settings.max_queue_wait_s,
        max_request_s=settings.max_request_s,
    )


def to_engine_config(settings: Settings, checkpoint: Path) -> EngineConfig:
    """The engine's part of the settings, in its own units."""
    gib = settings.kv_cache_gib
    return EngineConfig(
        checkpoint=checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        attention=settings.attention,
        kv_cache_dtype=settings.kv_cache_dtype,
        max_model_len=settings.max_model_len,
        kv_cache_bytes=None if gib is None else int(gib * 2**30),
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        feature_cache_bytes=settings.feature_cache_mib << 20,
        data_parallel=settings.data_parallel,
    )
