"""Chats with pictures, as many users would have them: a seed makes the same ones again.

A user has one chat after the other, each with one of a few system prompts, half of them about a
picture; some pictures are in many people's chats. Users pause, for exponential times, before a chat
and before asking on: of many of them, chats begin as a Poisson process does. Popularity is Zipf's,
and lengths are lognormal. No chat outgrows the short rope regime: all of it would be computed anew
there, by whichever replica.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count

import numpy as np
from numpy.typing import NDArray

from scoring.image_processor import HDPicture
from scoring.sequence import ImageSpan, SamplingParams, Sequence

LONGEST = 4096
"""Tokens of a chat, the end of the genuine model's short rope regime."""
CROP = 336
_TOKEN_IDS = (300, 32000)


@dataclass(frozen=True)
class Habits:
    """What users do. Lengths in tokens: (median, spread of the logarithm, least, most)."""

    system_prompts: tuple[int, ...] = (120, 200, 300, 400, 500, 650, 800, 1000)
    question: tuple[float, float, int, int] = (40, 0.8, 5, 400)
    answer: tuple[float, float, int, int] = (120, 0.6, 8, 500)
    mean_turns: float = 4.0
    max_turns: int = 12
    mean_think_s: float = 15.0
    with_picture: float = 0.5
    known_picture: float = 0.3  # of those with one, about one of the known ones
    known_per_replica: int = 20
    # (rows, columns) of crops, the slots they take in the genuine model, and how often.
    pictures: tuple[tuple[int, int, int, float], ...] = (
        (1, 1, 313, 0.3),
        (2, 2, 757, 0.35),
        (3, 3, 1489, 0.25),
        (4, 4, 2509, 0.1),
    )


@dataclass(frozen=True)
class Turn:
    """num_prompt: tokens of the chat up to here. num_answer: that follow. think_s: from the last
    answer, or the last chat, to this question."""

    num_prompt: int
    num_answer: int
    think_s: float


@dataclass(frozen=True)
class Chat:
    """token_ids: all of the last turn's, its answer included."""

    name: str
    token_ids: list[int] = field(repr=False)
    images: tuple[ImageSpan, ...]
    turns: tuple[Turn, ...]

    def sequence(self, number: int) -> Sequence:
        """What is asked in a turn, the answers before it included."""
        turn = self.turns[number]
        return Sequence(
            f"{self.name}-{number}",
            self.token_ids[: turn.num_prompt],
            SamplingParams(max_tokens=turn.num_answer),
            self.images,
        )

    def answer(self, number: int) -> list[int]:
        turn = self.turns[number]
        return self.token_ids[turn.num_prompt : turn.num_prompt + turn.num_answer]


def chats(num_replicas: int, seed: int, habits: Habits) -> Iterator[Chat]:
    """Without end. num_replicas: of whose users."""
    random = np.random.default_rng([seed, num_replicas])
    apps = [_ids(np.random.default_rng([seed, 1, n]), n) for n in habits.system_prompts]
    app_share = _zipf(len(apps))
    known = [
        _picture(random, b"known %d" % number, habits)
        for number in range(habits.known_per_replica * num_replicas)
    ]
    known_share = _zipf(len(known))
    for number in count():
        ids = list(apps[random.choice(len(apps), p=app_share)])
        images: tuple[ImageSpan, ...] = ()
        if random.random() < habits.with_picture:
            if random.random() < habits.known_picture:
                picture = known[random.choice(len(known), p=known_share)]
            else:
                picture = _picture(random, b"%d of %d" % (number, seed), habits)
            images = (ImageSpan(picture, len(ids)),)
            ids += [-1] * picture.num_tokens
        turns = tuple(_turns(random, len(ids), habits))
        last = turns[-1]
        ids += _ids(random, last.num_prompt + last.num_answer - len(ids))
        yield Chat(f"chat {number}", ids, images, turns)


def _turns(random: np.random.Generator, length: int, habits: Habits) -> Iterator[Turn]:
    num_turns = min(int(random.geometric(1 / habits.mean_turns)), habits.max_turns)
    for number in range(num_turns):
        question, answer = _length(random, habits.question), _length(random, habits.answer)
        if number == 0:  # even after the largest picture there is room for most of an answer
            answer = min(answer, LONGEST - length - question)
        elif length + question + answer > LONGEST:
            return
        yield Turn(length + question, answer, float(random.exponential(habits.mean_think_s)))
        length += question + answer


def _length(random: np.random.Generator, of: tuple[float, float, int, int]) -> int:
    median, spread, least, most = of
    return int(np.clip(random.lognormal(np.log(median), spread), least, most))


def _picture(random: np.random.Generator, digest: bytes, habits: Habits) -> HDPicture:
    """Its pixels take no memory: only their number is looked at."""
    point = random.random()
    sums = accumulate(share for *_, share in habits.pictures)
    index = next((i for i, s in enumerate(sums) if point < s), len(habits.pictures) - 1)
    rows, columns, num_tokens, _ = habits.pictures[index]
    shape = (rows * CROP, columns * CROP, 3)
    return HDPicture(np.broadcast_to(np.uint8(0), shape), digest, num_tokens)


def _ids(random: np.random.Generator, number: int) -> list[int]:
    found: list[int] = random.integers(*_TOKEN_IDS, number).tolist()
    return found


def _zipf(number: int) -> NDArray[np.float64]:
    weights = 1 / np.arange(1, number + 1)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares
