"""Drawings of shapes."""

import math
import random

from .canvas import Canvas, Drawing, Style, article, listed, looks_by_part, new_canvas, shade
from .shape import CENTER, KINDS, PLACES, PLURALS, Shape, things_of
from .shape_questions import questions

_MOST_SHAPES = 4


def draw_shape(canvas: Canvas, shape: Shape) -> None:
    x, y, r = shape.x, shape.y, shape.radius
    canvas.marks += shape.thing
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
    canvas = new_canvas(rng, style, upright=True)
    count = rng.choices(range(1, _MOST_SHAPES + 1), (25, 25, 25, 25))[0]
    shapes = _arrange(canvas, count)
    for shape in shapes:
        draw_shape(canvas, shape)
    exchanges = questions(rng, canvas, shapes)
    sorts = _sorts(shapes)
    background = article(canvas.background)
    description = f"The picture shows {listed(list(sorts))} on {background} background."
    shown = looks_by_part(description, [(sort, things_of(of)) for sort, of in sorts.items()])
    return Drawing(canvas.image, exchanges, description, shown, canvas.marks)


def _arrange(canvas: Canvas, count: int) -> list[Shape]:
    """Shapes in distinct quarters of the picture, none touching another. Some scenes hold one kind
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
    cells = rng.sample(sorted(PLACES), count)
    if count == 1 and rng.random() < 0.4:
        cells = [CENTER]
    step_x, step_y = canvas.width / 2, canvas.height / 2
    room = min(step_x, step_y) / 2
    one_size = rng.uniform(0.5, 0.95) if rng.random() < 0.5 else 0.0
    shapes = []
    for cell in cells:
        radius = room * (one_size or rng.uniform(0.45, 0.95))
        if cell == CENTER:
            radius = room * rng.uniform(0.5, 1.8)
        slack_x, slack_y = max(0.0, step_x / 2 - radius), max(0.0, step_y / 2 - radius)
        x = cell[0] * step_x / 2 + rng.uniform(-0.9, 0.9) * slack_x
        y = cell[1] * step_y / 2 + rng.uniform(-0.9, 0.9) * slack_y
        shapes.append(Shape(rng.choice(kinds), rng.choice(colors), x, y, radius, cell))
    return shapes


def _sorts(shapes: list[Shape]) -> dict[str, list[Shape]]:
    """A red circle, or 2 red circles, with these: in the order of each sort's first, rows from the
    top, from the left."""
    sorts: dict[tuple[str, str], list[Shape]] = {}
    for shape in sorted(shapes, key=lambda shape: (shape.cell[1], shape.cell[0])):
        sorts.setdefault((shape.color, shape.kind), []).append(shape)
    return {
        article(f"{color} {kind}") if len(of) == 1 else f"{len(of)} {color} {PLURALS[kind]}": of
        for (color, kind), of in sorts.items()
    }
