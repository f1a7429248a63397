"""Words to print in pictures. Those of EVALUATION are never printed in training."""

import random
from importlib import resources

_LISTS = resources.files(__package__) / "words_to_print"
TRAINING = tuple(_LISTS.joinpath("training.txt").read_text().split())
EVALUATION = tuple(_LISTS.joinpath("evaluation.txt").read_text().split())

_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"


def invented_word(rng: random.Random) -> str:
    """Three to six letters: sayable, or any."""
    length = rng.randint(3, 6)
    if rng.random() < 0.4:
        return "".join(rng.choices(_CONSONANTS + _VOWELS, k=length))
    start = rng.randrange(2)
    return "".join(
        rng.choice(_VOWELS if (start + place) % 2 else _CONSONANTS) for place in range(length)
    )
