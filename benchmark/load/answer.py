"""What one request came to: when each piece of text arrived, how many tokens, or the error."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec

from .sse import EventDecoder


@dataclass
class Answer:
    """One request's outcome. Times are seconds of perf_counter.

    start: just before the request's first byte was handed to the system, and before the connection
    was made, if it needed a new one. end: the response's last byte, or the failure.
    times: when each content delta came: an event with text in `choices[].delta.content`.
    num_tokens: what the stream's usage says; else what was asked for, if the answer stopped for its
    length; else one per delta. has_usage: whether the stream told it.
    error: None for a whole answer, else its kind in a few words that many share; detail: the rest.
    late_s: in an open loop, how long after its due time it was sent.
    """

    start: float = 0.0
    end: float = 0.0
    times: list[float] = field(default_factory=list)
    text: str = ""
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    has_usage: bool = False
    model: str | None = None
    error: str | None = None
    detail: str = ""
    late_s: float = 0.0

    @property
    def ttft_s(self) -> float:
        """Time to first token: from the start to the first content delta."""
        return self.times[0] - self.start

    @property
    def e2e_s(self) -> float:
        """End-to-end latency: from the start to the response's end."""
        return self.end - self.start

    @property
    def gaps_s(self) -> list[float]:
        """Inter-token latencies: the times between two content deltas of this stream."""
        return [later - earlier for earlier, later in pairwise(self.times)]

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: from the first delta to the last, over the tokens
        but one. None for an answer of one token."""
        if self.num_tokens < 2:
            return None
        return (self.times[-1] - self.times[0]) / (self.num_tokens - 1)

    @property
    def came_in_one_piece(self) -> bool:
        """Several tokens at one time: nothing is known of the time that each took."""
        return self.tpot_s == 0

    def fail(self, kind: str, detail: str = "") -> None:
        """Note an error, unless one came before: the first says why."""
        if self.error is None:
            self.error, self.detail = kind, detail


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


_events = msgspec.json.Decoder(_Event)


class AnswerReader:
    """Fills an answer from its stream's bytes. Raises msgspec.DecodeError for other JSON than a
    chat completion's chunks."""

    def __init__(self, answer: Answer, max_tokens: int) -> None:
        self._answer = answer
        self._max_tokens = max_tokens
        self._decoder = EventDecoder()
        self._pieces: list[str] = []
        self._is_finished = False

    def feed(self, data: bytes, now: float) -> None:
        """now: when the data came."""
        for event in self._decoder.feed(data):
            if event == b"[DONE]":
                self._is_finished = True
            else:
                self._enter(_events.decode(event), now)

    def close(self) -> None:
        """The response has ended as HTTP has it."""
        answer = self._answer
        answer.text = "".join(self._pieces)
        if not self._is_finished:
            answer.fail("stream without an end", "neither a finish_reason nor [DONE] came")
        elif not answer.times:
            answer.fail("answer without text")

    def _enter(self, event: _Event, now: float) -> None:
        answer = self._answer
        if event.error:
            answer.fail("error in the stream", str(event.error)[:200])
        if answer.model is None:
            answer.model = event.model
        for choice in event.choices or ():
            if choice.delta is not None and choice.delta.content:
                answer.times.append(now)
                self._pieces.append(choice.delta.content)
                if not answer.has_usage:
                    answer.num_tokens += 1
            if choice.finish_reason is not None:
                self._is_finished = True
                if choice.finish_reason == "length" and not answer.has_usage:
                    answer.num_tokens = self._max_tokens
        if event.usage is not None and event.usage.completion_tokens:
            details = event.usage.prompt_tokens_details
            answer.has_usage = True
            answer.num_tokens = event.usage.completion_tokens
            answer.num_prompt_tokens = event.usage.prompt_tokens
            answer.num_cached_tokens = (details and details.cached_tokens) or 0
