"""The systems under test, all behind one call: requests in, each one's new tokens out.

Ours, and the three ways of transformers to run the text twin: `generate()` one by one, `generate()`
on one padded batch, and continuous batching. Greedy everywhere, no end of sequence.
"""

import itertools
import logging
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from scoring.engine import Engine
from scoring.engine_builder import build_engine
from scoring.engine_config import DtypeName, EngineConfig, QuantizationName
from scoring.sequence import ImageSpan, SamplingParams, Sequence, TokenOutput

from .workload import Request

# Room for whatever a workload holds at a time, for both who manage a cache: 32,768 tokens.
_KV_CACHE_BYTES = 2 << 30
_CB_NUM_BLOCKS, _CB_PAGE_SIZE = 128, 256
# transformers' default, 8,192, is slower here: its mask is dense, so every token of a batch is
# scored against every request's keys. 512 is no faster than this.
_CB_MAX_BATCH_TOKENS = 2048
_MAX_NUM_SEQS = 64
_RESULT_TIMEOUT_S = 600.0

_ids = itertools.count()


class System(Protocol):
    name: str

    def generate(self, requests: Items[Request]) -> list[list[int]]:
        """Serve all requests, handed in together; exactly num_output tokens for each."""


def build_ours(
    checkpoint: Path, dtype: DtypeName, quantization: QuantizationName = "none"
) -> Engine:
    config = EngineConfig(
        checkpoint,
        device="cpu",
        dtype=dtype,
        kv_cache_bytes=_KV_CACHE_BYTES * (2 if dtype == "float32" else 1),
        max_num_seqs=_MAX_NUM_SEQS,
        kernels="auto",
        quantization=quantization,
    )
    return build_engine(config, lambda done, total: None)


def to_sequence(
    prompt: Items[int], num_output: int, images: tuple[ImageSpan, ...] = ()
) -> Sequence:
    """A greedy sequence that nothing stops before num_output tokens."""
    params = SamplingParams(max_tokens=num_output)
    return Sequence(f"bench-{next(_ids)}", list(prompt), params, images)


def run_to_end(engine: Engine, sequences: Items[Sequence]) -> dict[str, list[TokenOutput]]:
    """Step until the engine is idle. → outputs by sequence id. Raises for one that failed."""
    outputs: dict[str, list[TokenOutput]] = {sequence.id: [] for sequence in sequences}
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise RuntimeError(output.error)
            outputs[output.sequence_id].append(output)
    return outputs


class Ours:
    """Our engine, stepped in this thread."""

    name = "ours"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def generate(self, requests: Items[Request]) -> list[list[int]]:
        sequences = [to_sequence(request.prompt, request.num_output) for request in requests]
        outputs = run_to_end(self.engine, sequences)
        return [
            [output.token_id for output in outputs[sequence.id] if output.token_id is not None]
            for sequence in sequences
        ]


class OursInt8(Ours):
    """The same with 8-bit decoder layers."""

    name = "ours, int8"


def load_twin(checkpoint: Path, dtype: torch.dtype) -> Any:
    """The text twin as transformers' Phi3ForCausalLM, with what continuous batching needs."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Continuous batching warns of an end-of-sequence token that is off, as it should be here.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=dtype, attn_implementation="sdpa"
    )
    model.eval()
    # Set, it would make every layer a sliding one and turn prefix sharing off.
    model.config.sliding_window = None
    # Tokens of the configuration would come back where a call says None.
    for config in (model.config, model.generation_config):
        config.eos_token_id = None
        config.pad_token_id = 0
    return model


class OneByOne:
    """transformers' generate(), one request after the other."""

    name = "one by one"

    def __init__(self, model: Any) -> None:
        self._model = model

    def generate(self, requests: Items[Request]) -> list[list[int]]:
        return [_generate(self._model, [request])[0] for request in requests]


class StaticBatch:
    """transformers' generate() on one batch, padded on the left, until its longest answer ends.
    What the others computed beyond their own ends is thrown away and not counted."""

    name = "static batch"

    def __init__(self, model: Any) -> None:
        self._model = model

    def generate(self, requests: Items[Request]) -> list[list[int]]:
        return _generate(self._model, requests)


@torch.inference_mode()
def _generate(model: Any, requests: Items[Request]) -> list[list[int]]:
    longest = max(len(request.prompt) for request in requests)
    padding = [longest - len(request.prompt) for request in requests]
    prompts = zip(padding, requests, strict=True)
    output = model.generate(
        torch.tensor([[0] * pad + request.prompt for pad, request in prompts]),
        attention_mask=torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding]),
        generation_config=_generation_config(max(request.num_output for request in requests)),
    )
    return [
        row[longest : longest + request.num_output].tolist()
        for row, request in zip(output, requests, strict=True)
    ]


def _generation_config(max_new_tokens: int) -> GenerationConfig:
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0
    )


class ContinuousBatching:
    """transformers' continuous batching. Its manager and thread live as long as this does."""

    name = "continuous batching"

    def __init__(self, model: Any) -> None:
        config = ContinuousBatchingConfig(
            page_size=_CB_PAGE_SIZE,
            num_blocks=_CB_NUM_BLOCKS,
            max_batch_tokens=_CB_MAX_BATCH_TOKENS,
            max_requests_per_batch=_MAX_NUM_SEQS,
            auto_switch_to_flash=False,
        )
        generation = _generation_config(max_new_tokens=128)
        generation.eos_token_id = -1  # its way of saying none
        self._manager = model.init_continuous_batching(
            generation_config=generation, continuous_batching_config=config
        )
        self._manager.start()

    def generate(self, requests: Items[Request]) -> list[list[int]]:
        ids = [
            self._manager.add_request(request.prompt, max_new_tokens=request.num_output)
            for request in requests
        ]
        tokens: dict[str, list[int]] = {}
        while len(tokens) < len(requests):
            result = self._manager.get_result(timeout=_RESULT_TIMEOUT_S)
            if result is None or result.error is not None:
                raise RuntimeError(f"continuous batching failed: {result and result.error}")
            tokens[result.request_id] = list(result.generated_tokens)
        return [tokens[request_id] for request_id in ids]

    def close(self) -> None:
        self._manager.stop(block=True, timeout=10)
        self._manager.destroy()


def build_system(name: str, checkpoint: Path, twin: Path) -> System:
    """The system of that name in bfloat16: ours on the checkpoint, transformers' on its twin."""
    if name == Ours.name:
        return Ours(build_ours(checkpoint, "bfloat16"))
    if name == OursInt8.name:
        return OursInt8(build_ours(checkpoint, "bfloat16", "int8"))
    theirs = {system.name: system for system in (OneByOne, StaticBatch, ContinuousBatching)}
    return theirs[name](load_twin(twin, torch.bfloat16))
