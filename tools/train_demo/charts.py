"""Bar and line charts, and what can be asked about them: highest, lowest, values, comparisons."""

import json
import random
from dataclasses import dataclass

from PIL import ImageFont

from .canvas import Canvas, Drawing, Exchange, Style, listed, shade
from .shapes import json_question

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
    """values by label, from the left. part: what one of them is called."""

    kind: str
    part: str
    values: dict[str, int]
    color: str
    has_printed_values: bool

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
    _draw(canvas, chart)
    shown = listed([f"{label} {value}" for label, value in chart.values.items()])
    description = f"The {chart.kind} shows {shown}. The highest is {chart.highest}."
    return Drawing(canvas.image, _about(rng, chart), description, canvas.marks)


def _values(rng: random.Random) -> Chart:
    labels = rng.choice(_LABELS)
    count = rng.randint(3, min(5, len(labels)))
    start = rng.choice((0, rng.randint(0, len(labels) - count)))
    printed = rng.random() < 0.85
    # What is not printed is read off the scale, whose lines stand at tens.
    top = rng.choice((10, 20, 50, 100))
    step = 1 if printed else 10
    choices = range(step, (top if printed else 100) + 1, step)
    values = rng.sample(choices, count)
    kind, part = rng.choice((("bar chart", "bar"), ("bar chart", "bar"), ("line chart", "point")))
    named = dict(zip(labels[start : start + count], values, strict=True))
    return Chart(kind, part, named, rng.choice(_INKS), printed)


def _draw(canvas: Canvas, chart: Chart) -> None:
    rng, draw = canvas.rng, canvas.draw
    unit = canvas.unit
    face = canvas.face(rng.uniform(0.085, 0.105))
    scale = rng.choice((1.0, 1.0, 1.1)) * max(chart.values.values())
    left, right = (
        canvas.width * (0.15 if not chart.has_printed_values else 0.06),
        canvas.width * 0.97,
    )
    top, bottom = canvas.height * 0.13, canvas.height * 0.86
    if not chart.has_printed_values:
        scale = 100.0
        for tick in range(0, 101, 20):
            y = bottom - (bottom - top) * tick / scale
            draw.line((left, y, right, y), fill=(190, 190, 194), width=max(1, unit // 160))
            _print(canvas, (left - unit * 0.02, y), str(tick), face, "rm")
    thick = max(2, unit // 110)
    draw.line((left, bottom, right, bottom), fill=_INK, width=thick)
    draw.line((left, top * 0.8, left, bottom), fill=_INK, width=thick)
    step = (right - left) / len(chart.values)
    breadth = step * rng.uniform(0.22, 0.36)
    one_color = rng.random() < 0.65
    points = []
    for index, (label, value) in enumerate(chart.values.items()):
        x, y = left + step * (index + 0.5), bottom - (bottom - top) * value / scale
        fill = shade(rng, chart.color if one_color else _INKS[(index * 2) % len(_INKS)])
        points.append((x, y, fill))
        if chart.part == "bar":
            draw.rectangle((x - breadth, y, x + breadth, bottom - thick / 2), fill=fill)
        _print(canvas, (x, bottom + unit * 0.02), label, face, "ma")
        if chart.has_printed_values:
            gap = unit * (0.015 if chart.part == "bar" else 0.035)
            _print(canvas, (x, y - gap), str(value), face, "mb")
    if chart.part == "point":
        color = shade(rng, chart.color)
        draw.line([(x, y) for x, y, _ in points], fill=color, width=max(3, unit // 70))
        dot = max(3, unit // 50)
        for x, y, _ in points:
            draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=color)


def _print(
    canvas: Canvas, at: tuple[float, float], text: str, face: ImageFont.FreeTypeFont, anchor: str
) -> None:
    canvas.draw.text(at, text, fill=_INK, font=face, anchor=anchor)
    left, top, _, _ = canvas.draw.textbbox(at, text, font=face, anchor=anchor)
    canvas.mark_text(text, "black", face, (left, top))


def _about(rng: random.Random, chart: Chart) -> list[Exchange]:
    part, labels = chart.part, list(chart.values)
    found = []
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
        found.append(Exchange(question, f"The {word} {part} is {label}.", "chart"))
        found.append(
            Exchange(
                f"What is the {word} value?", f"The {word} value is {chart.values[label]}.", "chart"
            )
        )
    for label in rng.sample(labels, 2):
        question = rng.choice(
            ("What is the value of {}?", "What value does {} have?", "How high is {}?")
        )
        answer = f"The value of {label} is {chart.values[label]}."
        found.append(Exchange(question.format(label), answer, "chart"))
    one, other = rng.sample(labels, 2)
    is_higher = chart.values[one] > chart.values[other]
    answer = (
        f"Yes, {one} is higher than {other}." if is_higher else f"No, {other} is higher than {one}."
    )
    found.append(Exchange(f"Is {one} higher than {other}?", answer, "chart"))
    found.append(
        Exchange(f"How many {part}s are there?", f"There are {len(labels)} {part}s.", "chart")
    )
    found.append(Exchange("What kind of chart is this?", f"It is a {chart.kind}.", "chart kind"))
    facts = {"highest": chart.highest, "value": chart.values[chart.highest]}
    found.append(Exchange(json_question(rng, list(facts)), json.dumps(facts), "json"))
    return found
