"""Drawings of every sort, in the shares in which they are trained and marked."""

import random

from . import fonts, words
from .canvas import Drawing, Exchange, Style
from .charts import chart_drawing
from .lettering import lettering_drawing
from .shapes import shapes_drawing

TRAINING = Style(
    fonts.TRAINING,
    words.TRAINING,
    ((224, 224), (256, 256), (320, 240), (320, 180), (360, 300), (400, 400), (448, 300)),
    ((460, 200), (480, 150), (560, 130)),
    invented_words=True,
)
EVALUATION = Style(
    fonts.EVALUATION,
    words.EVALUATION,
    ((512, 512), (640, 480), (640, 360), (300, 280), (480, 400)),
    ((620, 280), (600, 180)),
    invented_words=False,
)
_SORTS = (shapes_drawing, lettering_drawing, chart_drawing)
_SHARES = (42, 28, 30)
_DESCRIBE = (
    "Describe the picture.",
    "What do you see?",
    "What is in the picture?",
    "Describe the image.",
    "What does the picture show?",
    "What is in this image?",
    "What is shown here?",
)


def draw_one(rng: random.Random, style: Style, shares: tuple[int, int, int] = _SHARES) -> Drawing:
    """A drawing; its description, as an exchange, is the last one. shares: of shapes, lettering
    and charts."""
    drawing = rng.choices(_SORTS, shares)[0](rng, style)
    question = rng.choice(_DESCRIBE)
    drawing.exchanges.append(Exchange(question, drawing.description, "description", drawing.shown))
    return drawing
