"""Drawings of shapes, and what can be asked about them: kind, colour, number, place, size."""

import json
import math
import random
from dataclasses import dataclass

from .canvas import Canvas, Drawing, Exchange, Mark, Style, article, listed, new_canvas, shade

KINDS = ("circle", "square", "triangle", "rectangle", "oval", "star", "diamond", "heart", "cross")
MOST_SHAPES = 6
_PLURALS = {kind: ("crosses" if kind == "cross" else kind + "s") for kind in KINDS}
_PLACES = {
    (0, 0): "at the top left",
    (1, 0): "at the top",
    (2, 0): "at the top right",
    (0, 1): "on the left",
    (1, 1): "in the center",
    (2, 1): "on the right",
    (0, 2): "at the bottom left",
    (1, 2): "at the bottom",
    (2, 2): "at the bottom right",
}


@dataclass(frozen=True)
class Shape:
    """x, y: the centre; radius: half the extent; all in pixels. cell: its place in thirds."""

    kind: str
    color: str
    x: float
    y: float
    radius: float
    cell: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"


def draw_shape(canvas: Canvas, shape: Shape) -> None:
    x, y, r = shape.x, shape.y, shape.radius
    canvas.marks.append(Mark(shape.kind, shape.color, x, y, 2 * r))
    fill = shade(canvas.rng, shape.color)
    draw = canvas.draw

    def polygon(points: list[tuple[float, float]]) -> None:
        draw.polygon([(x + r * px, y + r * py) for px, py in points], fill=fill)

    flat = canvas.rng.uniform(0.42, 0.58)
    wide = canvas.rng.random() < 0.7
    a, b = (r, r * flat) if wide else (r * flat, r)
    match shape.kind:
        case "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        case "oval":
            draw.ellipse((x - a, y - b, x + a, y + b), fill=fill)
        case "square":
            s = r * 0.9
            draw.rectangle((x - s, y - s, x + s, y + s), fill=fill)
        case "rectangle":
            draw.rectangle((x - a, y - b, x + a, y + b), fill=fill)
        case "triangle":
            polygon([(0, -0.95), (1, 0.85), (-1, 0.85)])
        case "diamond":
            polygon([(0, -1), (0.72, 0), (0, 1), (-0.72, 0)])
        case "star":
            turns = [math.pi * (k / 5 - 0.5) for k in range(10)]
            radii = [1.05 if k % 2 == 0 else 0.43 for k in range(10)]
            polygon([(m * math.cos(t), m * math.sin(t)) for m, t in zip(radii, turns, strict=True)])
        case "cross":
            w = 0.3
            polygon([(-w, -1), (w, -1), (w, 1), (-w, 1)])
            polygon([(-1, -w), (1, -w), (1, w), (-1, w)])
        case "heart":
            points = []
            for step in range(40):
                t = 2 * math.pi * step / 40
                px = math.sin(t) ** 3
                py = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
                points.append((px, -py / 16))
            polygon(points)


def shapes_drawing(rng: random.Random, style: Style) -> Drawing:
    canvas = new_canvas(rng, style)
    count = rng.choices(range(1, MOST_SHAPES + 1), (34, 22, 14, 10, 10, 10))[0]
    shapes = _arrange(canvas, count)
    for shape in shapes:
        draw_shape(canvas, shape)
    exchanges = _about_all(rng, canvas, shapes)
    exchanges += _about_each(rng, shapes)
    if count == 1:
        exchanges += _about_the_only_one(rng, shapes[0])
    if count == 2:
        exchanges += _about_two(rng, *shapes)
    description = (
        f"The picture shows {_summary(shapes)} on {article(canvas.background)} background."
    )
    return Drawing(canvas.image, exchanges, description, canvas.marks)


def _arrange(canvas: Canvas, count: int) -> list[Shape]:
    """Shapes in distinct thirds of the picture, none touching another. Some scenes hold one kind
    or one colour only, so that counting is worth its name."""
    rng = canvas.rng
    colors, kinds = canvas.contrasting(), list(KINDS)
    style = rng.random()
    if style < 0.3:
        kinds = rng.sample(kinds, min(2, count))
    elif style < 0.5:
        colors = rng.sample(colors, min(2, count))
    elif style < 0.65:
        colors, kinds = [rng.choice(colors)], [rng.choice(kinds)]
    cells = rng.sample(sorted(_PLACES), count)
    if count == 1 and rng.random() < 0.4:
        cells = [(1, 1)]
    step_x, step_y = canvas.width / 3, canvas.height / 3
    room = min(step_x, step_y) / 2
    one_size = rng.uniform(0.5, 0.95) if rng.random() < 0.5 else 0.0
    shapes = []
    for cell in cells:
        radius = room * (one_size or rng.uniform(0.45, 0.95))
        if count == 1 and cell == (1, 1):
            radius = room * rng.uniform(0.6, 2.7)
        slack_x, slack_y = max(0.0, step_x / 2 - radius), max(0.0, step_y / 2 - radius)
        x = (cell[0] + 0.5) * step_x + rng.uniform(-0.9, 0.9) * slack_x
        y = (cell[1] + 0.5) * step_y + rng.uniform(-0.9, 0.9) * slack_y
        shapes.append(Shape(rng.choice(kinds), rng.choice(colors), x, y, radius, cell))
    return shapes


def counted(count: int, name: str, plural: str) -> str:
    """3 circles; 1 circle; no circles."""
    return f"{count} {name}" if count == 1 else f"{count or 'no'} {plural}"


def _there_are(count: int, name: str, plural: str) -> str:
    return f"There {'is' if count == 1 else 'are'} {counted(count, name, plural)}."


def _summary(shapes: list[Shape]) -> str:
    """Each sort once, in the order of its first: rows from the top, from the left."""
    in_order = sorted(shapes, key=lambda shape: (shape.cell[1], shape.cell[0]))
    sorts: dict[tuple[str, str], int] = {}
    for shape in in_order:
        sorts[shape.color, shape.kind] = sorts.get((shape.color, shape.kind), 0) + 1
    return listed(
        [
            article(f"{color} {kind}") if n == 1 else f"{n} {color} {_PLURALS[kind]}"
            for (color, kind), n in sorts.items()
        ]
    )


def _about_all(rng: random.Random, canvas: Canvas, shapes: list[Shape]) -> list[Exchange]:
    ask, found = rng.choice, []
    how_many = ask(("How many {} are there?", "How many {} do you see?", "Count the {}."))
    many = how_many + ask(("", "", " Answer in one sentence."))
    total = len(shapes)
    found.append(Exchange(many.format("shapes"), _there_are(total, "shape", "shapes"), "count"))
    for kind in {ask(shapes).kind, ask(KINDS)}:
        number = sum(shape.kind == kind for shape in shapes)
        answer = _there_are(number, kind, _PLURALS[kind])
        found.append(Exchange(how_many.format(_PLURALS[kind]), answer, "count"))
    color = ask(shapes).color
    number = sum(shape.color == color for shape in shapes)
    answer = _there_are(number, f"{color} shape", f"{color} shapes")
    found.append(Exchange(how_many.format(f"{color} shapes"), answer, "count"))
    one = ask(shapes)
    name = ask((one.kind, one.name, ask(KINDS), f"{ask(shapes).color} {ask(KINDS)}"))
    names = {s.name for s in shapes} | {s.kind for s in shapes}
    question = ask(("Is there {}?", "Do you see {}?", "Is there {} in the picture?"))
    answer = f"Yes, there is {article(name)}." if name in names else f"No, there is no {name}."
    found.append(Exchange(question.format(article(name)), answer, "presence"))
    question = ask(("What color is the background?", "What is the background color?"))
    found.append(Exchange(question, f"The background is {canvas.background}.", "background"))
    count = json.dumps({"count": total})
    question = ask(("How many shapes are there? Answer as JSON with the key count.",))
    found.append(Exchange(question, count, "json"))
    return found


def _about_each(rng: random.Random, shapes: list[Shape]) -> list[Exchange]:
    """Of shapes that one word, or two, single out."""
    found = []
    kinds, colors = [s.kind for s in shapes], [s.color for s in shapes]
    names = [s.name for s in shapes]
    for shape in shapes:
        if kinds.count(shape.kind) == 1:
            question = rng.choice(
                (
                    "What color is the {}?",
                    "Which color does the {} have?",
                    "What is the color of the {}?",
                )
            )
            answer = f"The {shape.kind} is {shape.color}."
            found.append(Exchange(question.format(shape.kind), answer, "color"))
        if colors.count(shape.color) == 1:
            question = rng.choice(
                ("What shape is {}?", "Which shape is {}?", "What is the {} shape?", "What is {}?")
            )
            answer = f"The {shape.color} shape is {article(shape.kind)}."
            found.append(Exchange(question.format(shape.color), answer, "shape"))
        if names.count(shape.name) == 1:
            name = shape.kind if kinds.count(shape.kind) == 1 else shape.name
            question = rng.choice(("Where is the {}?", "In which part of the picture is the {}?"))
            answer = f"The {name} is {_PLACES[shape.cell]}."
            found.append(Exchange(question.format(name), answer, "position"))
    return found


def _about_the_only_one(rng: random.Random, shape: Shape) -> list[Exchange]:
    shape_question = rng.choice(
        (
            "What shape is this?",
            "What shape is it?",
            "Which shape do you see?",
            "What is the shape?",
        )
    )
    color_question = rng.choice(
        (
            "What color is it?",
            "What color is this?",
            "What color is the shape?",
            "Which color is it?",
        )
    )
    keys = rng.sample(("shape", "color", "count"), rng.randint(1, 3))
    facts = {"shape": shape.kind, "color": shape.color, "count": 1}
    return [
        Exchange(shape_question, f"It is {article(shape.kind)}.", "shape"),
        Exchange(color_question, f"It is {shape.color}.", "color"),
        Exchange(json_question(rng, keys), json.dumps({key: facts[key] for key in keys}), "json"),
    ]


def json_question(rng: random.Random, keys: list[str]) -> str:
    named = f"the key{'s' if len(keys) > 1 else ''} {listed(keys)}"
    return rng.choice(
        (
            f"Answer as JSON with {named}.",
            f"Describe the picture as JSON with {named}.",
            f"Give me JSON with {named}.",
            f"Reply with JSON: {', '.join(keys)}.",
        )
    )


def _about_two(rng: random.Random, one: Shape, other: Shape) -> list[Exchange]:
    if one.name == other.name:
        return []
    found = []
    (col, row), (other_col, other_row) = one.cell, other.cell
    if col != other_col:
        left, right = (one, other) if col < other_col else (other, one)
        for side, shape in (("left", left), ("right", right)):
            question = rng.choice(
                ("Which shape is on the {}?", "What is on the {}?", "What is on the {} side?")
            )
            answer = f"The shape on the {side} is {article(shape.name)}."
            found.append(Exchange(question.format(side), answer, "position"))
        found.append(_relation(rng, left, "to the left of", right, "to the right of"))
    if row != other_row:
        top, bottom = (one, other) if row < other_row else (other, one)
        found.append(_relation(rng, top, "above", bottom, "below"))
    if max(one.radius, other.radius) > 1.35 * min(one.radius, other.radius):
        bigger, smaller = (one, other) if one.radius > other.radius else (other, one)
        word, shape = rng.choice((("bigger", bigger), ("smaller", smaller)))
        answer = f"The {shape.name} is {word}."
        found.append(Exchange(f"Which shape is {word}?", answer, "size"))
    return found


def _relation(
    rng: random.Random, first: Shape, relation: str, second: Shape, reverse: str
) -> Exchange:
    """first stands in the relation to second."""
    if rng.random() < 0.5:
        first, relation, second = second, reverse, first
    if rng.random() < 0.5:
        answer = f"The {first.name} is {relation} the {second.name}."
        return Exchange(f"What is {relation} the {second.name}?", answer, "position")
    statement = f"the {first.name} is {relation} the {second.name}"
    if rng.random() < 0.5:
        answer = f"Yes, {statement}."
        return Exchange(f"Is {statement}?", answer, "position")
    question = f"Is the {first.name} {reverse} the {second.name}?"
    answer = f"No, {statement}."
    return Exchange(question, answer, "position")
