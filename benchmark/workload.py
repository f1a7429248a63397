"""What the systems are given to do: requests of fixed lengths and ever new tokens."""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

# Ordinary pieces of the vocabulary; control tokens and bytes lie outside.
_TOKEN_IDS = range(300, 32000)


@dataclass(frozen=True)
class Request:
    """A prompt of token ids and how many tokens to answer with, exactly."""

    prompt: list[int]
    num_output: int


@dataclass(frozen=True)
class Workload:
    """Requests that arrive together. Lengths run evenly over both ranges, ends included, in an
    order of their own each, so that long prompts do not go with long answers.

    num_alone: how many of them a system that serves one after the other is timed on. Its speed
    does not depend on how many there are, so a few that are long and short like all will do.
    """

    name: str
    num_requests: int
    prompt_lens: tuple[int, int]
    output_lens: tuple[int, int]
    num_alone: int

    @cached_property
    def lengths(self) -> list[tuple[int, int]]:
        """(prompt, output) tokens of each request: the same in every round."""
        random = np.random.default_rng(len(self.name))

        def spread(ends: tuple[int, int]) -> list[int]:
            values = np.linspace(*ends, self.num_requests).round().astype(int)
            return [int(value) for value in random.permutation(values)]

        return list(zip(spread(self.prompt_lens), spread(self.output_lens), strict=True))

    @cached_property
    def alone(self) -> list[int]:
        """The num_alone requests whose mean lengths are closest to those of all."""
        lengths = np.array(self.lengths, dtype=float)
        mean = lengths.mean(axis=0)
        candidates = combinations(range(self.num_requests), self.num_alone)
        return list(min(candidates, key=lambda c: abs(lengths[list(c)].mean(0) / mean - 1).sum()))

    @property
    def num_output(self) -> int:
        return sum(output for _, output in self.lengths)

    def requests(self, seed: int) -> list[Request]:
        """One round's requests. Another seed shares no prefix with them that a cache could use."""
        random = np.random.default_rng([seed, len(self.name), self.num_requests])
        return [Request(random_tokens(random, prompt), output) for prompt, output in self.lengths]


def random_tokens(random: np.random.Generator, num_tokens: int) -> list[int]:
    return [int(i) for i in random.integers(_TOKEN_IDS.start, _TOKEN_IDS.stop, num_tokens)]


CONCURRENT = Workload("16 concurrent", 16, (64, 256), (16, 128), num_alone=4)
LONG = Workload("8 long prompts", 8, (900, 1100), (16, 64), num_alone=2)
SINGLE = Workload("1 request", 1, (125, 125), (64, 64), num_alone=1)
