"""Which of several engines gets a request: the one that knows most of it, unless it is too busy.

An engine knows the beginnings of the prompts that it was sent, which its prefix cache may still
hold, and the pictures, whose features it may. What is remembered here is a guess: where it is
wrong a prompt is computed again, and nothing else happens.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import islice

from .sequence import Sequence

# Tokens of a piece of a prompt that is remembered, by the hash of all up to its end.
CHUNK_TOKENS = 64
# Per engine. The chunks are 262,144 tokens, more than a cache of 80 GB holds; the features of the
# pictures, at their largest, take 2 GB.
MAX_CHUNKS, MAX_PICTURES = 4096, 128
# A known token is worth so many open ones, at an engine that is at most BUSY times as busy as the
# average: an open token makes steps a little longer, a known one need not be computed at all. At a
# busier one it is worth so few that about four requests with a picture, or a document, in common
# run together before a fifth has it computed elsewhere, too; and the few tokens that all prompts
# begin with keep nobody from an idle engine. Tried in `python -m benchmark.cluster`.
KNOWN_WORTH, KNOWN_WORTH_WHERE_BUSY = 64, 4
BUSY = 1.5


@dataclass(frozen=True)
class PictureKey:
    """A picture of a prompt: its name, and its slots start … end."""

    digest: bytes
    start: int
    end: int


@dataclass(frozen=True)
class PromptKey:
    """What a choice needs to know of a prompt. chunks: see chunk_hashes."""

    num_tokens: int
    chunks: tuple[bytes, ...]
    pictures: tuple[PictureKey, ...]


def prompt_key(sequence: Sequence) -> PromptKey:
    return PromptKey(
        sequence.num_prompt_tokens,
        tuple(chunk_hashes(sequence)),
        tuple(PictureKey(span.picture.digest, span.start, span.end) for span in sequence.images),
    )


class Memory:
    """What one engine was sent, the latest of it."""

    def __init__(self) -> None:
        self._chunks = _Latest(MAX_CHUNKS)
        self._pictures = _Latest(MAX_PICTURES)

    def num_known(self, prompt: PromptKey) -> int:
        """Tokens of the prompt's known beginning, and of the known pictures behind it."""
        num_chunks = 0
        while num_chunks < len(prompt.chunks) and prompt.chunks[num_chunks] in self._chunks:
            num_chunks += 1
        num_known = prefix = num_chunks * CHUNK_TOKENS
        for picture in prompt.pictures:
            if picture.digest in self._pictures:
                num_known += max(0, picture.end - max(picture.start, prefix))
        return num_known

    def add(self, prompt: PromptKey) -> None:
        # From the end, so that of one prompt's chunks the later ones are forgotten first.
        self._chunks.add(reversed(prompt.chunks))
        self._pictures.add(picture.digest for picture in prompt.pictures)

    def latest(self, max_chunks: int) -> tuple[list[bytes], list[bytes]]:
        """Names to remember elsewhere: of the latest chunks and of all pictures, oldest first."""
        return self._chunks.latest(max_chunks), self._pictures.latest(MAX_PICTURES)

    def learn(self, chunks: Items[bytes], pictures: Items[bytes]) -> None:
        """Add names that another memory of the same engine gave out."""
        self._chunks.add(chunks)
        self._pictures.add(pictures)


def rank(loads: Items[int | None], known: Items[int], turns: Items[int]) -> list[int]:
    """Indices of the engines that take requests, the best first.

    loads: of each engine, tokens of its open requests, prompts and outputs; None for one that takes
    no requests. known: tokens of the prompt in question that it need not compute. turns: the lower,
    the longer ago it was chosen; among equals it is next.
    """
    taking = [load for load in loads if load is not None]
    busy = BUSY * sum(taking) / max(1, len(taking))
    costs = {
        index: (_cost(load, known[index], busy), turns[index])
        for index, load in enumerate(loads)
        if load is not None
    }
    return sorted(costs, key=costs.__getitem__)


def _cost(load: int, num_known: int, busy: float) -> int:
    """busy: the load beyond which an engine is. What it knows makes up for a little more."""
    at_least = KNOWN_WORTH_WHERE_BUSY * num_known
    return load - (KNOWN_WORTH * num_known if load <= busy + at_least else at_least)


class Router:
    """Chooses, and remembers what it chose. Knows engines by their index only."""

    def __init__(self, num_engines: int) -> None:
        self._memories = [Memory() for _ in range(num_engines)]
        self._turns = [0] * num_engines

    def route(self, sequence: Sequence, loads: Items[int | None]) -> int:
        """The index of the engine that the sequence is to go to, and from now on is known to.

        loads: as for rank. Raises ValueError where no engine takes requests.
        """
        prompt = prompt_key(sequence)
        known = [memory.num_known(prompt) for memory in self._memories]
        ranking = rank(loads, known, self._turns)
        if not ranking:
            raise ValueError("the ranking is empty: no engine takes requests")
        chosen = ranking[0]
        self._memories[chosen].add(prompt)
        self._turns[chosen] = max(self._turns) + 1
        return chosen


class _Latest:
    """A set of bounded size that forgets what was not added again for longest."""

    def __init__(self, max_len: int) -> None:
        self._max_len = max_len
        self._items: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, item: bytes) -> bool:
        return item in self._items

    def add(self, items: Iterable[bytes]) -> None:
        for item in items:
            self._items[item] = None
            self._items.move_to_end(item)
        while len(self._items) > self._max_len:
            self._items.popitem(last=False)

    def latest(self, max_len: int) -> list[bytes]:
        """At most so many, that which was added last at the end."""
        newest_first = islice(reversed(self._items), max_len)
        return list(newest_first)[::-1]


def chunk_hashes(sequence: Sequence) -> list[bytes]:
    """A name of eight bytes for the prompt up to the end of each complete chunk: alike only where
    the tokens, the pictures in their slots and the salt are, or by a chance that costs nothing."""
    token_ids = array("i", sequence.token_ids)
    hashes, parent = [], b"root" + sequence.salt
    for start in range(0, len(token_ids) - CHUNK_TOKENS + 1, CHUNK_TOKENS):
        end = start + CHUNK_TOKENS
        digest = hashlib.sha256(parent)
        digest.update(token_ids[start:end])
        for span in sequence.images:
            if span.start < end and span.end > start:
                digest.update((span.start - start).to_bytes(8, "little", signed=True))
                digest.update(span.picture.digest)
        parent = digest.digest()
        hashes.append(parent[:8])
    return hashes
