"""What a streamed token costs: our TokenTextStreamer beside transformers' TextIteratorStreamer.

4,000 tokens of one line without a break, in five parts, the two taking turns; process CPU time. The
vocabulary is the demo model's.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from transformers import PreTrainedTokenizerFast, TextIteratorStreamer

from scoring.demo_model import DEMO
from scoring.prompt import load_tokenizer
from scoring.text_stream import TokenTextStreamer

_PARTS, _TOKENS_PER_PART, _ROUNDS = 5, 800, 3


def main() -> None:
    tokenizer = load_tokenizer(DEMO)
    words = tokenizer.backend_tokenizer.encode(
        "the quick brown fox jumps over a lazy dog and café", add_special_tokens=False
    ).ids
    tokens = [words[i % len(words)] for i in range(_PARTS * _TOKENS_PER_PART)]
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    for _ in range(_ROUNDS):
        ours.append(_measure(_ours(tokenizer), tokens))
        theirs.append(_measure(_theirs(tokenizer), tokens))
    print(f"{'tokens':>12} {'ours':>10} {'theirs':>10} {'ratio':>7}   microseconds per token")
    for part in range(_PARTS):
        our, their = (median(rounds[part] for rounds in all_) for all_ in (ours, theirs))
        span = f"{part * _TOKENS_PER_PART}-{(part + 1) * _TOKENS_PER_PART}"
        print(f"{span:>12} {our:10.1f} {their:10.1f} {their / our:6.0f}x")


def _ours(tokenizer: PreTrainedTokenizerFast) -> Callable[[int], object]:
    streamer = TokenTextStreamer(tokenizer, ["</answer>", "\n\n\n"])

    def push(token: int) -> str:
        streamer.put([token])
        return streamer.take()

    return push


def _theirs(tokenizer: PreTrainedTokenizerFast) -> Callable[[int], object]:
    streamer = TextIteratorStreamer(tokenizer, skip_special_tokens=True)

    def push(token: int) -> object:
        streamer.put(torch.tensor([token]))  # type: ignore[no-untyped-call]
        return streamer.text_queue.get_nowait()

    return push


def _measure(push: Callable[[int], object], tokens: list[int]) -> list[float]:
    """Microseconds of CPU per token in each part."""
    costs = []
    for part in range(_PARTS):
        start = time.process_time()
        for token in tokens[part * _TOKENS_PER_PART : (part + 1) * _TOKENS_PER_PART]:
            push(token)
        costs.append((time.process_time() - start) / _TOKENS_PER_PART * 1e6)
    return costs


if __name__ == "__main__":
    main()
