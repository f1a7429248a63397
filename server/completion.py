"""One chat completion: a checked request → a Sequence → text, as deltas or as a whole."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from transformers import PreTrainedTokenizerFast

from model_config import Card
from scoring.engine_client import EngineClient
from scoring.errors import ContextLengthError
from scoring.grammar_checker import GrammarChecker
from scoring.prompt import Prompt, PromptBuilder
from scoring.sequence import FinishReason, Logprobs, SamplingParams, Sequence, TokenOutput
from scoring.text_stream import TokenTextStreamer

from .answer_grammar import to_grammar
from .conversation import to_chat_messages, urls_to_fetch
from .errors import NotSupportedError, TimedOutError
from .image_fetcher import ImageFetcher
from .request_limits import RequestLimits
from .request_record import RequestRecord
from .sampling import check_parameters, to_sampling_params
from .schemas import ChatCompletionsRequest


@dataclass(frozen=True)
class Processor:
    """A model's front half: what turns requests into token ids and tokens into text.

    picture_workers: as many pictures are decoded at once as there are cores. More would take more
    memory, no less time, and the event loop's turn at the processor.
    """

    card: Card
    tokenizer: PreTrainedTokenizerFast
    prompts: PromptBuilder
    grammars: GrammarChecker
    limits: RequestLimits
    image_fetcher: ImageFetcher
    max_image_pixels: int
    max_queue_wait_s: float
    max_request_s: float
    picture_workers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(os.cpu_count(), "pictures")
    )

    async def to_prompt(self, request: ChatCompletionsRequest) -> Prompt:
        """Fetch what is to be fetched; then decode, tile and tokenize, in a worker thread."""
        urls = urls_to_fetch(request.messages, self.card)
        fetched = await self.image_fetcher.fetch_all(urls)
        workers = self.picture_workers if request.has_pictures else None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(workers, self._build, request, fetched)

    def _build(self, request: ChatCompletionsRequest, fetched: Mapping[str, bytes]) -> Prompt:
        chat = to_chat_messages(request, self.card, self.max_image_pixels, fetched)
        return self.prompts.build(chat)


@dataclass(frozen=True)
class Delta:
    """What one step added. finish_reason is set on the last delta, whose text may be empty."""

    text: str
    logprobs: list[dict[str, Any]] | None
    finish_reason: FinishReason | None


class Completion:
    """A request on its way through the engine."""

    def __init__(
        self,
        request: ChatCompletionsRequest,
        sequence: Sequence,
        processor: Processor,
        max_model_len: int,
        record: RequestRecord,
    ) -> None:
        self.id = sequence.id
        self.created = int(time.time())
        self.model = processor.card.served_name
        self.num_prompt_tokens = sequence.num_prompt_tokens
        self.num_output_tokens = 0
        self.num_cached_tokens = 0
        self.record = record
        self._sequence = sequence
        self._max_model_len = max_model_len
        self._tokenizer = processor.tokenizer
        self._streamer = TokenTextStreamer(processor.tokenizer, request.stop or ())

    @property
    def num_total_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_output_tokens

    @property
    def max_total_tokens(self) -> int:
        """What num_total_tokens can come to."""
        return min(self.num_prompt_tokens + self._sequence.params.max_tokens, self._max_model_len)

    @property
    def params(self) -> SamplingParams:
        return self._sequence.params

    @property
    def num_images(self) -> int:
        return len(self._sequence.images)

    @property
    def num_image_tokens(self) -> int:
        return sum(image.picture.num_tokens for image in self._sequence.images)

    @property
    def usage(self) -> dict[str, Any]:
        """Azure's three counts, and OpenAI's details of the prompt's: tokens that were in the
        prefix cache, and those that pictures take."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_output_tokens,
            "total_tokens": self.num_total_tokens,
            "prompt_tokens_details": {
                "cached_tokens": self.num_cached_tokens,
                "image_tokens": self.num_image_tokens,
            },
        }

    @property
    def has_logprobs(self) -> bool:
        return self._sequence.params.logprobs is not None

    async def deltas(self, engine: EngineClient) -> AsyncGenerator[Delta, None]:
        """Text as it becomes certain. Close it to abort; raises what `generate` raises."""
        try:
            async with aclosing(engine.generate(self._sequence)) as outputs:
                async for output in outputs:
                    self.record.saw(output)
                    delta = self._next(output)
                    self.record.finish_reason = delta.finish_reason
                    if delta.text or delta.logprobs or delta.finish_reason:
                        yield delta
                    if delta.finish_reason is not None:
                        return
        except BaseException as error:
            self.record.broke(error)
            raise

    def _next(self, output: TokenOutput) -> Delta:
        reason, logprobs = output.finish_reason, None
        if output.token_id is None and self.num_output_tokens == 0:
            raise TimedOutError("the answer did not begin in the time allowed")
        self.num_output_tokens += output.token_id is not None
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached)
        if reason is not FinishReason.STOP and output.token_id is not None:
            self._streamer.put([output.token_id])
            if output.logprobs is not None:
                logprobs = [self._logprobs(output.token_id, output.logprobs)]
        if self._streamer.stopped:
            reason = FinishReason.STOP
        if reason is not None:
            self._streamer.end()
        return Delta(self._streamer.take(), logprobs, reason)

    def _logprobs(self, token_id: int, logprobs: Logprobs) -> dict[str, Any]:
        """OpenAI's form of one token's log-probabilities."""
        return self._token(token_id, logprobs.sampled) | {
            "top_logprobs": [self._token(*alternative) for alternative in logprobs.top]
        }

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        piece = self._tokenizer.backend_tokenizer.id_to_token(token_id) or ""
        if piece.startswith("<0x") and piece.endswith(">"):
            data = bytes([int(piece[3:-1], 16)])
        else:
            data = piece.replace("▁", " ").encode()
        return {
            "token": data.decode(errors="replace"),
            "logprob": logprob,
            "bytes": list(data),
        }


async def start_completion(
    request: ChatCompletionsRequest,
    processor: Processor,
    engine: EngineClient,
    record: RequestRecord,
    caller: bytes = b"",
) -> Completion:
    """Everything that can refuse a request, before the first byte of an answer. caller: whose
    caches it shares."""
    start = time.monotonic()
    limits = engine.check_ready()
    engine.check_room()
    processor.limits.check(request)
    _check_supported(request, processor.card)
    check_parameters(request, limits)
    grammar = await to_grammar(request, processor.grammars)
    record.validated = time.monotonic()
    prompt = await processor.to_prompt(request)
    if len(prompt.token_ids) >= limits.max_model_len:
        raise ContextLengthError(len(prompt.token_ids), limits.max_model_len)
    engine.check_room(len(prompt.token_ids))  # others may have come in the meantime
    sequence = Sequence(
        uuid4().hex,
        prompt.token_ids,
        to_sampling_params(request, processor.card, processor.prompts.stop_token_ids, limits),
        tuple(image.salted(caller) for image in prompt.images),
        salt=caller,
        deadline=start + processor.max_request_s,
        queue_deadline=start + processor.max_queue_wait_s,
        grammar=grammar,
    )
    sequence.check_grammar()
    record.prepared = time.monotonic()
    record.completion = Completion(request, sequence, processor, limits.max_model_len, record)
    return record.completion


def _check_supported(request: ChatCompletionsRequest, card: Card) -> None:
    asked = {
        "tools": request.tools,
        "tool_choice": request.tool_choice not in (None, "none"),
    }
    for name, given in asked.items():
        if given and name in card.unsupported:
            value = getattr(request, name)
            raise NotSupportedError(f"{card.served_name} has no tools", ("body", name), value)
