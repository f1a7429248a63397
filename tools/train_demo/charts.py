"""Bar and line charts, and what can be asked about them: highest, lowest, values, comparisons."""

import json
import random
from dataclasses import dataclass

from PIL import ImageFont

from .canvas import (
    NOTHING,
    Canvas,
    Drawing,
    Exchange,
    Style,
    Thing,
    listed,
    look_at,
    looks_by_part,
    shade,
)
from .shape_questions import json_question

_LABELS = (
    tuple("ABCDEF"),
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    ("Q1", "Q2", "Q3", "Q4"),
    ("X", "Y", "Z"),
)
_INK = (40, 40, 44)
_INKS = ("red", "orange", "green", "blue", "purple", "pink", "brown", "black", "gray")


@dataclass(frozen=True)
class Chart:
    """values by label, from the left, printed above each. part: what one of them is called."""

    kind: str
    part: str
    values: dict[str, int]
    color: str

    @property
    def highest(self) -> str:
        return max(self.values, key=self.values.__getitem__)

    @property
    def lowest(self) -> str:
        return min(self.values, key=self.values.__getitem__)


def chart_drawing(rng: random.Random, style: Style) -> Drawing:
    width, height = rng.choice(style.sizes)
    background = "white" if rng.random() < 0.9 else "gray"
    canvas = Canvas(rng, style, max(width, height), min(width, height), background)
    if background == "gray":
        canvas.draw.rectangle((0, 0, canvas.width, canvas.height), fill=(225, 225, 228))
    chart = _values(rng)
    things = _draw(canvas, chart)
    parts = [f"{label} {value}" for label, value in chart.values.items()]
    description = f"The {chart.kind} shows {listed(parts)}. The highest is {chart.highest}."
    shown = looks_by_part(
        description,
        [
            *((part, [thing]) for part, thing in zip(parts, things.values(), strict=True)),
            (f"highest is {chart.highest}", [things[chart.highest]]),
        ],
    )
    return Drawing(canvas.image, _about(rng, chart, things), description, shown, canvas.marks)


def _values(rng: random.Random) -> Chart:
    labels = rng.choice(_LABELS)
    count = rng.randint(3, min(4, len(labels)))
    start = rng.choice((0, rng.randint(0, len(labels) - count)))
    values = rng.sample(range(1, rng.choice((10, 20, 50, 100)) + 1), count)
    kind, part = rng.choice((("bar chart", "bar"), ("bar chart", "bar"), ("line chart", "point")))
    named = dict(zip(labels[start : start + count], values, strict=True))
    return Chart(kind, part, named, rng.choice(_INKS))


def _draw(canvas: Canvas, chart: Chart) -> dict[str, Thing]:
    """→ by label, the characters of the label and its value."""
    rng, draw = canvas.rng, canvas.draw
    unit = canvas.unit
    # So that the widest label stays within its part of the width.
    room = min(1.0, 0.75 * canvas.width / unit)
    face = canvas.face(room * rng.uniform(0.115, 0.14))
    scale = rng.choice((1.0, 1.0, 1.1)) * max(chart.values.values())
    left, right = canvas.width * 0.05, canvas.width * 0.97
    top, bottom = canvas.height * 0.17, canvas.height * 0.81
    thick = max(2, unit // 110)
    draw.line((left, bottom, right, bottom), fill=_INK, width=thick)
    draw.line((left, top * 0.8, left, bottom), fill=_INK, width=thick)
    step = (right - left) / len(chart.values)
    breadth = step * rng.uniform(0.22, 0.36)
    one_color = rng.random() < 0.65
    points, things = [], {}
    for index, (label, value) in enumerate(chart.values.items()):
        x, y = left + step * (index + 0.5), bottom - (bottom - top) * value / scale
        fill = shade(rng, chart.color if one_color else _INKS[(index * 2) % len(_INKS)])
        points.append((x, y))
        if chart.part == "bar":
            draw.rectangle((x - breadth, y, x + breadth, bottom - thick / 2), fill=fill)
        gap = unit * (0.015 if chart.part == "bar" else 0.035)
        named = _print(canvas, (x, bottom + unit * 0.02), label, face, "ma")
        things[label] = named + _print(canvas, (x, y - gap), str(value), face, "mb")
    if chart.part == "point":
        color = shade(rng, chart.color)
        draw.line(points, fill=color, width=max(3, unit // 70))
        dot = max(3, unit // 50)
        for x, y in points:
            draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=color)
    return things


def _print(
    canvas: Canvas, at: tuple[float, float], text: str, face: ImageFont.FreeTypeFont, anchor: str
) -> Thing:
    canvas.draw.text(at, text, fill=_INK, font=face, anchor=anchor)
    left, top, _, _ = canvas.draw.textbbox(at, text, font=face, anchor=anchor)
    return canvas.mark_text(text, "black", face, (left, top))


def _about(rng: random.Random, chart: Chart, things: dict[str, Thing]) -> list[Exchange]:
    part, labels = chart.part, list(chart.values)
    found = []

    def add(question: str, answer: str, *about: str) -> None:
        looks = look_at(answer, *(things[label] for label in about))
        found.append(Exchange(question, answer, "chart", looks))

    for word, label in (("highest", chart.highest), ("lowest", chart.lowest)):
        other = {"highest": "tallest", "lowest": "shortest"}[word] if part == "bar" else word
        question = rng.choice(
            (
                f"Which {part} is the {word}?",
                f"Which {part} is {word}?",
                f"Which {part} is the {other}?",
                f"Which is the {word}?",
            )
        )
        add(question, f"The {word} {part} is {label}.", label)
        value = chart.values[label]
        add(f"What is the {word} value?", f"The {word} value is {value}.", label)
    for label in rng.sample(labels, 2):
        question = rng.choice(
            ("What is the value of {}?", "What value does {} have?", "How high is {}?")
        )
        add(question.format(label), f"The value of {label} is {chart.values[label]}.", label)
    one, other = rng.sample(labels, 2)
    is_higher = chart.values[one] > chart.values[other]
    answer = (
        f"Yes, {one} is higher than {other}." if is_higher else f"No, {other} is higher than {one}."
    )
    add(f"Is {one} higher than {other}?", answer, one, other)
    question, answer = f"How many {part}s are there?", f"There are {len(labels)} {part}s."
    looks = look_at(answer, NOTHING, *things.values())
    found.append(Exchange(question, answer, "chart", looks))
    found.append(Exchange("What kind of chart is this?", f"It is a {chart.kind}.", "chart kind"))
    facts = {"highest": chart.highest, "value": chart.values[chart.highest]}
    answer = json.dumps(facts)
    looks = look_at(answer, things[chart.highest])
    found.append(Exchange(json_question(rng, list(facts)), answer, "json", looks))
    return found
