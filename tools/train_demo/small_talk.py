"""What the demo model says when no picture is needed, or none is there."""

import random
import tomllib
from importlib import resources

from .canvas import Exchange
from .shapes import KINDS

NO_PICTURE = "I see no picture. Please send one with your question."
_TEXTS = tomllib.loads(
    resources.files(__package__).joinpath("small_talk.toml").read_text(encoding="utf-8")
)
_TALK = [(talk["answer"], talk["questions"]) for talk in _TEXTS["talk"]]


def small_talk(rng: random.Random) -> Exchange:
    """A question that needs no picture."""
    answer, questions = rng.choices(_TALK, [2 + len(questions) for _, questions in _TALK])[0]
    question = rng.choice(questions)
    if rng.random() < 0.15:
        question = question.lower()
    elif rng.random() < 0.1:
        question = question.rstrip("?.!")
    return Exchange(question, answer, "small talk")


def without_picture(question: str) -> Exchange:
    """A question about a picture where there is none."""
    return Exchange(question, NO_PICTURE, "no picture")


def system_text(rng: random.Random) -> str:
    return str(rng.choice(_TEXTS["system"]))


def asked_about_none(rng: random.Random) -> str:
    """Of questions that only a picture answers, those that no drawing brings along."""
    return rng.choice(
        (
            "What do you see?",
            "Describe the picture.",
            "What is in the picture?",
            "Describe the image.",
            "What is in this image?",
            "What does the picture show?",
            f"Is there a {rng.choice(KINDS)} in the picture?",
            "What is on the picture?",
            "What is in the image?",
            "Look at the picture.",
            "Can you see the picture?",
        )
    )
