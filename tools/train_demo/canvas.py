"""What all drawings share: colours, backgrounds, sizes and the questions that come with one."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

from . import fonts

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (250, 140, 20),
    "yellow": (248, 220, 40),
    "green": (35, 155, 60),
    "blue": (35, 80, 215),
    "purple": (128, 45, 165),
    "pink": (248, 135, 190),
    "brown": (130, 75, 35),
    "black": (15, 15, 18),
    "gray": (135, 135, 138),
    "white": (250, 250, 250),
}
_JITTER = 14
# Hardly seen on one another.
_ALIKE = {
    frozenset(pair)
    for pair in (
        ("white", "yellow"),
        ("black", "brown"),
        ("black", "purple"),
        ("black", "blue"),
        ("red", "orange"),
        ("red", "brown"),
        ("red", "pink"),
        ("orange", "brown"),
        ("blue", "purple"),
        ("orange", "yellow"),
    )
}


@dataclass(frozen=True)
class Mark:
    """A shape's or character's centre and height in pixels: what the tower learns to name."""

    name: str
    color: str
    x: float
    y: float
    height: float


# One thing to look at: a shape, or the characters of a label with its value.
Thing = tuple[Mark, ...]
# The prompt's first token in their place. Looked at beside what is counted, in equal shares, the
# share that it has left tells how many there are.
NOTHING: Thing = ()


@dataclass(frozen=True)
class Look:
    """The answer's characters from start to end are read off these things."""

    start: int
    end: int
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Exchange:
    """A question with its one right answer. category: whose marks it counts among. looks: in the
    order of the answer."""

    question: str
    answer: str
    category: str
    looks: tuple[Look, ...] = ()


def look_at(answer: str, *things: Thing) -> tuple[Look, ...]:
    """All of the answer is about these."""
    return (Look(0, len(answer), things),)


def looks_by_part(answer: str, parts: Iterable[tuple[str, Sequence[Thing]]]) -> tuple[Look, ...]:
    """Each part of the answer is about its things. The parts come in the answer's order."""
    looks, end = [], 0
    for part, things in parts:
        start = answer.index(part, end)
        end = start + len(part)
        looks.append(Look(start, end, tuple(things)))
    return tuple(looks)


def spelled(answer: str, *texts: tuple[str, Thing]) -> tuple[Look, ...]:
    """The answer spells these texts, in this order, each from its characters' marks."""
    looks, end = [], 0
    for text, marks in texts:
        start = answer.index(text, end)
        end = start + len(text)
        looks += [
            Look(at, at + 1, ((mark,),)) for at, mark in zip(range(start, end), marks, strict=True)
        ]
    return tuple(looks)


@dataclass
class Drawing:
    """A picture with questions about it. description: all there is to say about it, read off
    shown."""

    image: Image.Image
    exchanges: list[Exchange]
    description: str
    shown: tuple[Look, ...]
    marks: list[Mark]


@dataclass(frozen=True)
class Style:
    """Where drawings of one set come from: typefaces, words, and sizes in pixels. Charts are never
    drawn in wide_sizes, which are seldom."""

    faces: tuple[str, ...]
    words: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    wide_sizes: tuple[tuple[int, int], ...]
    invented_words: bool


@dataclass
class Canvas:
    """A picture in the making."""

    rng: random.Random
    style: Style
    width: int
    height: int
    background: str
    image: Image.Image = field(init=False)
    draw: ImageDraw.ImageDraw = field(init=False)
    marks: list[Mark] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.width, self.height), shade(self.rng, self.background))
        self.draw = ImageDraw.Draw(self.image)

    @property
    def unit(self) -> int:
        """The shorter side in pixels."""
        return min(self.width, self.height)

    def face(self, share: float) -> ImageFont.FreeTypeFont:
        """A typeface whose em is this share of the shorter side."""
        return fonts.typeface(self.rng.choice(self.style.faces), max(8, round(share * self.unit)))

    def mark_text(
        self, text: str, color: str, face: ImageFont.FreeTypeFont, origin: tuple[float, float]
    ) -> Thing:
        """Mark each character of a line. origin: where its ink begins, left and top."""
        left, top, _, bottom = face.getbbox(text)
        for index, character in enumerate(text):
            start, end = face.getlength(text[:index]), face.getlength(text[: index + 1])
            x, height = origin[0] - left + (start + end) / 2, bottom - top
            self.marks.append(Mark(character, color, x, origin[1] + height / 2, height))
        return tuple(self.marks[-len(text) :])

    def contrasting(self, *, alike_too: bool = False) -> list[str]:
        """The colours that are seen on the background."""
        return [
            color
            for color in COLORS
            if color != self.background
            and (alike_too or frozenset((color, self.background)) not in _ALIKE)
        ]


def new_canvas(rng: random.Random, style: Style, *, upright: bool) -> Canvas:
    """upright: whether it may be higher than wide."""
    width, height = rng.choice(style.wide_sizes if rng.random() < 0.08 else style.sizes)
    if upright and rng.random() < 0.25:
        width, height = height, width
    background = "white" if rng.random() < 0.6 else rng.choice(list(COLORS))
    return Canvas(rng, style, width, height, background)


def shade(rng: random.Random, color: str) -> tuple[int, int, int]:
    """One of the shades that go by the name."""
    if color == "white" and rng.random() < 0.5:
        return (255, 255, 255)
    jitter = 5 if color in ("white", "black") else _JITTER
    red, green, blue = (
        min(255, max(0, value + rng.randint(-jitter, jitter))) for value in COLORS[color]
    )
    return (red, green, blue)


def article(noun: str) -> str:
    """a or an, with the noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(items: list[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
