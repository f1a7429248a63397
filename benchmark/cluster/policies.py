"""Ways to choose a replica: the product's own, and what others do.

The product's is its own code: an ingress's Fleet (server/ray/fleet.py), which remembers and counts
what it sent itself, and hears from the replicas once a second. The others know at once how many
requests each replica has open, whoever sent them.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from itertools import cycle
from typing import Protocol

import numpy as np

from scoring.router import PromptKey
from server.ray.fleet import Fleet
from server.ray.messages import Report

from .replica import SimulatedReplica


class Policy(Protocol):
    def choose(self, sequence_id: str, prompt: PromptKey) -> int:
        """The replica that gets it."""

    def grew(self, sequence_id: str) -> None:
        """A token of it has come."""

    def ended(self, sequence_id: str) -> None:
        """Or was refused."""

    def hear(self, reports: Items[Report]) -> None:
        """One of each replica."""


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

    def choose(self, sequence_id: str, prompt: PromptKey) -> int:
        fleet = self._fleets[self._random.integers(len(self._fleets))]
        self._at[sequence_id] = fleet
        fleet.opened(sequence_id)
        return int(fleet.choose(sequence_id, prompt)[0])

    def grew(self, sequence_id: str) -> None:
        self._at[sequence_id].grew(sequence_id)

    def ended(self, sequence_id: str) -> None:
        self._at.pop(sequence_id).ended(sequence_id)

    def hear(self, reports: Items[Report]) -> None:
        told = {str(number): report for number, report in enumerate(reports)}
        for fleet in self._fleets:
            fleet.update(told)


class _Simple:
    """Remembers nothing of requests."""

    def grew(self, sequence_id: str) -> None: ...

    def ended(self, sequence_id: str) -> None: ...

    def hear(self, reports: Items[Report]) -> None: ...


class RoundRobin(_Simple):
    def __init__(self, num_replicas: int) -> None:
        self._turns = cycle(range(num_replicas))

    def choose(self, sequence_id: str, prompt: PromptKey) -> int:
        return next(self._turns)


class LeastLoaded(_Simple):
    """Of all; or of two by chance, as Ray Serve's own router does (its PowerOfTwoChoices)."""

    def __init__(
        self, replicas: Items[SimulatedReplica], random: np.random.Generator, num_choices: int
    ) -> None:
        self._replicas, self._random, self._num_choices = replicas, random, num_choices

    def choose(self, sequence_id: str, prompt: PromptKey) -> int:
        shuffled = self._random.permutation(len(self._replicas))[: self._num_choices]
        return min(map(int, shuffled), key=lambda replica: self._replicas[replica].num_open)


MakePolicy = Callable[[Items[SimulatedReplica], int, int, np.random.Generator], Policy]
# By name: of the replicas, how many ingresses there are, and how many requests a replica takes.
POLICIES: dict[str, MakePolicy] = {
    "ours": lambda replicas, ingresses, most, random: Fleets(
        len(replicas), ingresses, most, random
    ),
    "least loaded": lambda replicas, _, __, random: LeastLoaded(replicas, random, len(replicas)),
    "better of two": lambda replicas, _, __, random: LeastLoaded(replicas, random, 2),
    "round robin": lambda replicas, _, __, ___: RoundRobin(len(replicas)),
}
