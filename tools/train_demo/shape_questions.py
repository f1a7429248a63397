"""What can be asked about shapes: kind, colour, number, place, size."""

import json
import random

from .canvas import NOTHING, Canvas, Exchange, article, listed, look_at
from .shape import KINDS, PLACE_NAMES, PLURALS, Shape, things_of


def questions(rng: random.Random, canvas: Canvas, shapes: list[Shape]) -> list[Exchange]:
    found = _about_all(rng, canvas, shapes) + _about_each(rng, shapes)
    if len(shapes) == 1:
        found += _about_the_only_one(rng, shapes[0])
    if len(shapes) == 2:
        found += _about_two(rng, *shapes)
    return found


def counted(count: int, name: str, plural: str) -> str:
    """3 circles; 1 circle; no circles."""
    return f"{count} {name}" if count == 1 else f"{count or 'no'} {plural}"


def _there_are(count: int, name: str, plural: str) -> str:
    return f"There {'is' if count == 1 else 'are'} {counted(count, name, plural)}."


def _about_all(rng: random.Random, canvas: Canvas, shapes: list[Shape]) -> list[Exchange]:
    ask, found = rng.choice, []
    how_many = ask(("How many {} are there?", "How many {} do you see?", "Count the {}."))
    many = how_many + ask(("", "", " Answer in one sentence."))

    def count(of: list[Shape], name: str, plural: str) -> None:
        answer = _there_are(len(of), name, plural)
        looks = look_at(answer, NOTHING, *things_of(of))
        found.append(Exchange(many.format(plural), answer, "count", looks))

    count(shapes, "shape", "shapes")
    # A dict, not a set: its order is the same in every run.
    for kind in dict.fromkeys((ask(shapes).kind, ask(KINDS))):
        count([shape for shape in shapes if shape.kind == kind], kind, PLURALS[kind])
    color = ask(shapes).color
    of_color = [shape for shape in shapes if shape.color == color]
    count(of_color, f"{color} shape", f"{color} shapes")
    one = ask(shapes)
    name = ask((one.kind, one.name, ask(KINDS), f"{ask(shapes).color} {ask(KINDS)}"))
    present = [shape for shape in shapes if name in (shape.name, shape.kind)]
    question = ask(("Is there {}?", "Do you see {}?", "Is there {} in the picture?"))
    answer = f"Yes, there is {article(name)}." if present else f"No, there is no {name}."
    looks = look_at(answer, *(things_of(present) or [NOTHING]))
    found.append(Exchange(question.format(article(name)), answer, "presence", looks))
    question = ask(("What color is the background?", "What is the background color?"))
    found.append(Exchange(question, f"The background is {canvas.background}.", "background"))
    answer = json.dumps({"count": len(shapes)})
    question = "How many shapes are there? Answer as JSON with the key count."
    looks = look_at(answer, NOTHING, *things_of(shapes))
    found.append(Exchange(question, answer, "json", looks))
    return found


def _about_each(rng: random.Random, shapes: list[Shape]) -> list[Exchange]:
    """Of shapes that one word, or two, single out."""
    found = []

    def add(question: str, answer: str, category: str, shape: Shape) -> None:
        found.append(Exchange(question, answer, category, look_at(answer, shape.thing)))

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
            add(question.format(shape.kind), answer, "color", shape)
        if colors.count(shape.color) == 1:
            question = rng.choice(
                ("What shape is {}?", "Which shape is {}?", "What is the {} shape?", "What is {}?")
            )
            answer = f"The {shape.color} shape is {article(shape.kind)}."
            add(question.format(shape.color), answer, "shape", shape)
        if names.count(shape.name) == 1:
            name = shape.kind if kinds.count(shape.kind) == 1 else shape.name
            question = rng.choice(("Where is the {}?", "In which part of the picture is the {}?"))
            answer = f"The {name} is {PLACE_NAMES[shape.cell]}."
            add(question.format(name), answer, "position", shape)
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
    answers = (
        (shape_question, f"It is {article(shape.kind)}.", "shape"),
        (color_question, f"It is {shape.color}.", "color"),
        (json_question(rng, keys), json.dumps({key: facts[key] for key in keys}), "json"),
    )
    return [
        Exchange(question, answer, category, look_at(answer, shape.thing))
        for question, answer, category in answers
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
            looks = look_at(answer, shape.thing)
            found.append(Exchange(question.format(side), answer, "position", looks))
        found.append(_relation(rng, left, "to the left of", right, "to the right of"))
    if row != other_row:
        top, bottom = (one, other) if row < other_row else (other, one)
        found.append(_relation(rng, top, "above", bottom, "below"))
    if max(one.radius, other.radius) > 1.35 * min(one.radius, other.radius):
        bigger, smaller = (one, other) if one.radius > other.radius else (other, one)
        word, shape = rng.choice((("bigger", bigger), ("smaller", smaller)))
        answer = f"The {shape.name} is {word}."
        looks = look_at(answer, one.thing, other.thing)
        found.append(Exchange(f"Which shape is {word}?", answer, "size", looks))
    return found


def _relation(
    rng: random.Random, first: Shape, relation: str, second: Shape, reverse: str
) -> Exchange:
    """first stands in the relation to second."""
    if rng.random() < 0.5:
        first, relation, second, reverse = second, reverse, first, relation
    if rng.random() < 0.5:
        answer = f"The {first.name} is {relation} the {second.name}."
        looks = look_at(answer, first.thing)
        return Exchange(f"What is {relation} the {second.name}?", answer, "position", looks)
    yes_or_no, asked = rng.choice((("Yes", relation), ("No", reverse)))
    question = f"Is the {first.name} {asked} the {second.name}?"
    answer = f"{yes_or_no}, the {first.name} is {relation} the {second.name}."
    looks = look_at(answer, first.thing, second.thing)
    return Exchange(question, answer, "position", looks)
