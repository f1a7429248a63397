"""The engine: add, abort, and step = schedule → execute → update. Synchronous, knows no threads."""

import logging
import shutil
import time
import traceback
from collections.abc import Sequence as Items
from itertools import count

import torch

from model_config import ModelConfig, from_checkpoint

from .block_manager import BlockManager
from .encoder_progress import CROP_PARTS
from .engine_config import EngineConfig, EngineLimits, EngineStats
from .errors import CheckpointError, ContextLengthError, InvalidSequenceError
from .kv_cache import KVCache, activation_bytes, bytes_per_token, cache_bytes
from .model_runner import ModelRunner
from .models.attention.choose import choose_backend
from .models.attention.interface import AttentionBackend
from .models.native_kernels import NativeKernels, fits_heads, load_native
from .models.packed_linear import pack_linears
from .models.phi3_vision import Phi3VisionForCausalLM
from .scheduler import SampledToken, ScheduledRow, Scheduler
from .sequence import FinishReason, SamplingParams, Sequence, TokenOutput
from .weights import Progress, load_model

logger = logging.getLogger(__name__)

# Prompt tokens and crops that a prompt brings to a step that others wait for.
_SHARES = {"cpu": (24, 1 / CROP_PARTS), "cuda": (512, 17.0)}
_LARGE_MODEL_BYTES = 256 << 20


class Engine:
    """Runs sequences together, a token each per step. Belongs to one thread."""

    def __init__(self, runner: ModelRunner, scheduler: Scheduler, limits: EngineLimits) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._sequences: dict[str, Sequence] = {}
        self._num_leaked_blocks = 0
        self.limits = limits

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises InvalidSequenceError for one that must not reach the device:
        whoever calls has checked before, but a bad id here would take everybody's context."""
        check_sequence(sequence, self.limits)
        if sequence.id in self._sequences:
            raise InvalidSequenceError(f"a sequence with the id {sequence.id} is running")
        self._sequences[sequence.id] = sequence
        self._scheduler.add(sequence)

    def abort(self, sequence_id: str) -> None:
        """End a sequence without a word and free its blocks. Unknown ids are ignored."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None:
            self._scheduler.abort(sequence)

    def step(self) -> list[TokenOutput]:
        """One forward over everything that can run; at most one output per sequence."""
        outputs = self._expire()
        rows = self._scheduler.schedule()
        if rows:
            sampled = self._execute(rows)
            if sampled is None and len(rows) > 1:
                logger.warning("a step of %d rows failed; running them singly", len(rows))
            if sampled is not None:
                outputs += self._scheduler.update(rows, sampled)
            else:
                outputs += self._one_by_one(rows)
        for output in outputs:
            if output.finish_reason is not None:
                self._sequences.pop(output.sequence_id, None)
        if not self._sequences:
            self._check_blocks()
        return outputs

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes. Only between requests."""
        self._scheduler.blocks.reset()

    def stats(self) -> EngineStats:
        blocks = self._scheduler.blocks
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            num_preemptions=self._scheduler.num_preemptions,
            num_blocks=blocks.num_blocks,
            num_blocks_free=blocks.num_free,
            num_blocks_cached=blocks.num_cached,
            num_pictures_encoded=self._runner.num_pictures_encoded,
            feature_cache_bytes=self._runner.features.num_bytes,
            num_blocks_leaked=self._num_leaked_blocks,
        )

    def _execute(self, rows: Items[ScheduledRow]) -> Items[SampledToken | None] | None:
        """The runner's tokens, or None where it raised. Its exception, whose frames hold tensors,
        is gone when this returns. A device error is no row's fault, and every later call on the
        device would fail too: it is raised on."""
        try:
            return self._runner.execute(rows)
        except torch.AcceleratorError:
            raise
        except Exception:
            # As text: a log record with the exception in it would keep the tensors of its frames.
            ids = ", ".join(row.sequence.id for row in rows)
            logger.error("executing %s failed\n%s", ids, traceback.format_exc())
        self._runner.release_memory()
        return None

    def _one_by_one(self, rows: Items[ScheduledRow]) -> list[TokenOutput]:
        """After a failed step: run its rows singly, so that only the culprit fails. Writing the
        same keys twice is harmless."""
        outputs = []
        for row in rows:
            sampled = self._execute([row]) if len(rows) > 1 else None
            if sampled is None:
                outputs.append(
                    self._scheduler.fail(row.sequence, "the model failed on this request")
                )
            else:
                outputs += self._scheduler.update([row], sampled)
        return outputs

    def _expire(self) -> list[TokenOutput]:
        """End the sequences whose time is up, with what they have, and those that have waited too
        long to be begun."""
        now = time.monotonic()
        outputs = []
        for sequence in self._sequences.values():
            if _is_before(sequence.deadline, now):
                outputs.append(TokenOutput(sequence.id, None, FinishReason.LENGTH))
            elif sequence.num_cached is None and _is_before(sequence.queue_deadline, now):
                outputs.append(TokenOutput(sequence.id, None, FinishReason.ABORT))
        for output in outputs:
            self._scheduler.abort(self._sequences[output.sequence_id])
        return outputs

    def _check_blocks(self) -> None:
        """With nobody there, every block must be free or cached. One that is not is our bug, worth
        a line in the log, but no reason to stop serving with the others."""
        blocks = self._scheduler.blocks
        leaked = blocks.num_blocks - blocks.num_free - blocks.num_cached
        if leaked != self._num_leaked_blocks:
            self._num_leaked_blocks = leaked
            logger.error("%d of %d cache blocks are lost", leaked, blocks.num_blocks)


def _is_before(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline < now


def check_sequence(sequence: Sequence, limits: EngineLimits) -> None:
    """Raise InvalidSequenceError unless the engine can run the sequence.

    Ids must lie in 0 … vocab_size, save for the slots of image i, which hold -(i + 1).
    """
    if not sequence.token_ids:
        raise InvalidSequenceError("the prompt is empty")
    if len(sequence.token_ids) >= limits.max_model_len:
        raise ContextLengthError(len(sequence.token_ids), limits.max_model_len)
    sequence.params.check(limits.vocab_size)
    allowed = limits.vocab_size
    position = 0
    for number, span in zip(count(1), sequence.images, strict=False):
        slots = set(sequence.token_ids[span.start : span.end])
        if span.start < position or span.end > len(sequence.token_ids) or slots != {-number}:
            raise InvalidSequenceError(f"image {number} does not match its slots in the prompt")
        _check_ids(sequence.token_ids[position : span.start], allowed)
        position = span.end
    _check_ids(sequence.token_ids[position:], allowed)


def _check_ids(token_ids: list[int], vocab_size: int) -> None:
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        raise InvalidSequenceError(f"a token id lies outside 0 … {vocab_size - 1}")


def build_engine(config: EngineConfig, progress: Progress) -> Engine:
    """Load the weights and put everything together. Raises CheckpointError and
    model_config.ModelConfigError for what is wrong on disk or does not fit in memory."""
    model_config = from_checkpoint(config.checkpoint)
    config.check_context(model_config.text.max_position_embeddings)
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    model = load_model(config.checkpoint, model_config, device, dtype, progress)
    native = _native(config, model_config, device, dtype)
    if device.type == "cpu":
        pack_linears(model, native, model.model.layers if config.quantization == "int8" else None)
        if native is not None and fits_heads(model_config.vision.head_dim):
            model.tower.use_native_attention(native)
    compiles = config.kernels == "compiled" or (config.kernels == "auto" and _is_worth_it(model))
    attention, kernels, why = choose_backend(device, dtype, native, compiles=compiles)
    num_blocks, max_model_len = _plan_cache(config, model_config, attention, device, dtype)
    logger.info(
        "%s, %s, %s kernels, attention %s (%s), %d blocks of %d tokens, context %d",
        device, str(dtype).removeprefix("torch."), kernels.name, attention.name, why,
        num_blocks, attention.block_size, max_model_len,
    )  # fmt: skip
    cache = KVCache(model_config, num_blocks, attention.block_size, dtype, device)
    runner = ModelRunner(
        model, cache, attention, feature_cache_bytes=config.feature_cache_bytes, kernels=kernels
    )
    engine = assemble(config, model_config, runner, num_blocks, attention.block_size, max_model_len)
    _warm_up(engine)
    return engine


def assemble(
    config: EngineConfig,
    model_config: ModelConfig,
    runner: ModelRunner,
    num_blocks: int,
    block_size: int,
    max_model_len: int,
) -> Engine:
    """An engine around a runner and a cache of so many blocks."""
    tokens, crops = _SHARES[runner.device_type]
    scheduler = Scheduler(
        BlockManager(num_blocks, block_size, prefix_cache=config.prefix_cache),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=max_model_len,
        short_rope_len=model_config.text.rope_scaling.original_max_position_embeddings,
        crop_size=model_config.vision.crop_size,
        max_crops=config.max_crops,
        prompt_share=config.prompt_share or tokens,
        crops_share=config.crops_share or crops,
    )
    return Engine(runner, scheduler, EngineLimits(max_model_len, runner.vocab_size))


def _native(
    config: EngineConfig, model_config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> NativeKernels | None:
    """Raises CheckpointError where native kernels are needed and cannot be had."""
    native, why = None, f"they are for a CPU, not {device.type}"
    if device.type == "cpu":
        if config.kernels not in ("auto", "native"):
            why = f"kernels are {config.kernels!r}"
        else:
            native, why = load_native(dtype, model_config.text)
    if native is None:
        logger.info("no native kernels: %s", why)
        needed = "native" if config.kernels == "native" else config.quantization
        if needed != "none":
            raise CheckpointError(
                f"{needed!r} needs the native kernels, which cannot be used: {why}"
            )
    return native


def _is_worth_it(model: Phi3VisionForCausalLM) -> bool:
    """Whether torch.compile can run, and saves more than it takes."""
    large = sum(parameter.nbytes for parameter in model.parameters()) >= _LARGE_MODEL_BYTES
    return large and shutil.which("g++") is not None


def _warm_up(engine: Engine) -> None:
    """Run short sequences, alone and together, so that whatever is compiled or allocated at first
    use is there before the first caller."""
    for rows in (1, 2, 3):
        for row in range(rows):
            prompt = [1] * min(20 + row, engine.limits.max_model_len // 2)
            engine.add(Sequence(f"warm-up {row}", prompt, SamplingParams(max_tokens=3)))
        while engine.has_work:
            engine.step()
    engine.reset_prefix_cache()


def _plan_cache(
    config: EngineConfig,
    model_config: ModelConfig,
    attention: AttentionBackend,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[int, int]:
    """How many blocks there is memory for, and the longest sequence that may be asked of them."""
    token_bytes = bytes_per_token(model_config, dtype)
    block_bytes = attention.block_size * token_bytes
    available = config.kv_cache_bytes
    if available is None:
        activations = activation_bytes(
            model_config, config.max_num_batched_tokens, config.max_crops, dtype
        )
        available = cache_bytes(activations, token_bytes, device)
    context = model_config.text.max_position_embeddings
    blocks_wanted = config.max_num_seqs * -(-context // attention.block_size)
    num_blocks = min(available // block_bytes, blocks_wanted)
    room = num_blocks * attention.block_size
    wanted = config.max_model_len
    if (wanted or 1) > room:
        raise CheckpointError(
            f"the key-value cache ({available / 2**30:.1f} GiB) holds {max(room, 0)} tokens; "
            f"max_model_len is {wanted or 'not set'}"
        )
    return num_blocks, wanted or min(context, room)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device is 'cuda', but torch sees no CUDA device")
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """auto: on CUDA bfloat16 where it is native, else float16; float32 on a CPU."""
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
