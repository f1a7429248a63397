"""Ways to choose a replica: the product's own, and what others do.

The product's is its own code: an ingress's Fleet (server/ray/fleet.py), which remembers and counts
what it sent itself, and hears from the replicas once a second. The others know at once how many
requests each replica has open, whoever sent them.
"""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from typing import Protocol

import numpy as np

from scoring.router import PromptKey
from server.ray.fleet import Fleet
from server.ray.messages import Report

from .replica import SimulatedReplica


class Policy(Protocol):
    def choose(self, sequence_id: str, prompt: PromptKey, there: Items[int]) -> Items[int]:
        """The replicas to ask, the best first. there: those that have not died, of which only some
        policies know."""

    def went(self, sequence_id: str, replica: int, prompt: PromptKey) -> None:
        """That one has taken it."""

    def grew(self, sequence_id: str, num_tokens: int) -> None: ...

    def ended(self, sequence_id: str) -> None: ...

    def hear(self, reports: Mapping[int, Report]) -> None:
        """Of all replicas there are."""


class Fleets:
    """Several ingresses; each request comes to one of them by chance, a chat's next one to
    another."""

    def __init__(
        self, num_replicas: int, num_ingresses: int, max_requests: int, random: np.random.Generator
    ) -> None:
        self._random = random
        self._fleets = [Fleet() for _ in range(num_ingresses)]
        self._at: dict[str, Fleet] = {}
        for fleet in self._fleets:
            fleet.max_requests = max_requests
            fleet.update({str(replica): None for replica in range(num_replicas)})

    def choose(self, sequence_id: str, prompt: PromptKey, there: Items[int]) -> Items[int]:
        fleet = self._fleets[self._random.integers(len(self._fleets))]
        self._at[sequence_id] = fleet
        fleet.opened(sequence_id)
        return [int(name) for name in fleet.choose(sequence_id, prompt)]

    def went(self, sequence_id: str, replica: int, prompt: PromptKey) -> None:
        self._at[sequence_id].went(sequence_id, str(replica), prompt)

    def grew(self, sequence_id: str, num_tokens: int) -> None:
        fleet = self._at[sequence_id]
        for _ in range(num_tokens):
            fleet.grew(sequence_id)

    def ended(self, sequence_id: str) -> None:
        self._at.pop(sequence_id).ended(sequence_id)

    def hear(self, reports: Mapping[int, Report]) -> None:
        told = {str(replica): report for replica, report in reports.items()}
        for fleet in self._fleets:
            fleet.update(told)


class _Simple:
    """Remembers nothing of requests."""

    def went(self, sequence_id: str, replica: int, prompt: PromptKey) -> None: ...

    def grew(self, sequence_id: str, num_tokens: int) -> None: ...

    def ended(self, sequence_id: str) -> None: ...

    def hear(self, reports: Mapping[int, Report]) -> None: ...


class RoundRobin(_Simple):
    def __init__(self) -> None:
        self._turn = 0

    def choose(self, sequence_id: str, prompt: PromptKey, there: Items[int]) -> Items[int]:
        self._turn += 1
        return [there[self._turn % len(there)]]


class AtRandom(_Simple):
    def __init__(self, random: np.random.Generator) -> None:
        self._random = random

    def choose(self, sequence_id: str, prompt: PromptKey, there: Items[int]) -> Items[int]:
        return [there[int(self._random.integers(len(there)))]]


class LeastLoaded(_Simple):
    """Of all, or of two by chance."""

    def __init__(
        self, replicas: Items[SimulatedReplica], random: np.random.Generator, num_choices: int
    ) -> None:
        self._replicas, self._random, self._num_choices = replicas, random, num_choices

    def choose(self, sequence_id: str, prompt: PromptKey, there: Items[int]) -> Items[int]:
        shuffled = self._random.permutation(len(there))[: self._num_choices]
        candidates = [there[int(index)] for index in shuffled]
        return [min(candidates, key=lambda replica: self._replicas[replica].num_open)]


MakePolicy = Callable[[Items[SimulatedReplica], int, int, np.random.Generator], Policy]
# By name: of the replicas, how many ingresses there are, and how many requests a replica takes.
POLICIES: dict[str, MakePolicy] = {
    "ours": lambda replicas, ingresses, most, random: Fleets(
        len(replicas), ingresses, most, random
    ),
    "least loaded": lambda replicas, _, __, random: LeastLoaded(replicas, random, len(replicas)),
    "better of two": lambda replicas, _, __, random: LeastLoaded(replicas, random, 2),
    "round robin": lambda _, __, ___, ____: RoundRobin(),
    "random": lambda _, __, ___, random: AtRandom(random),
}
