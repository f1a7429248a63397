"""Drawings of one printed word or number, or of both, and what can be asked about them."""

import json
import random

from PIL import Image, ImageDraw

from .canvas import (
    Canvas,
    Drawing,
    Exchange,
    Style,
    Thing,
    article,
    new_canvas,
    shade,
    spelled,
)
from .shape import KINDS
from .shape_questions import counted, json_question
from .words import invented_word

_BIGGEST, _SMALLEST = 0.62, 0.28


def lettering_drawing(rng: random.Random, style: Style) -> Drawing:
    canvas = new_canvas(rng, style, upright=False)
    color = rng.choice(canvas.contrasting())
    if rng.random() < 0.22:
        return _two_lines(canvas, color)
    text = _number(rng) if rng.random() < 0.5 else _word(rng, style)
    # The middle most often: there a crop's edge cuts the letters.
    spread = rng.choice((0.0, 0.5, 1.0))
    line = text, _print(canvas, text, color, (0.0, 1.0), spread)
    if text.isdigit():
        exchanges, what = _about_number(rng, *line), f"the number {text}"
    else:
        exchanges, what = _about_word(rng, *line), f'the word "{text}"'
    question = rng.choice(("What does it say?", "Read the text.", "What is written here?"))
    category = "number" if text.isdigit() else "word"
    answer = f'It says "{text}".'
    exchanges.append(Exchange(question, answer, _marked(text, category), spelled(answer, line)))
    exchanges += _about_both(rng, canvas, color)
    description = f"The picture shows {what} in {color} on {article(canvas.background)} background."
    return Drawing(canvas.image, exchanges, description, spelled(description, line), canvas.marks)


def _word(rng: random.Random, style: Style) -> str:
    invented = style.invented_words and rng.random() < 0.6
    return (invented_word(rng) if invented else rng.choice(style.words)).upper()


def _number(rng: random.Random) -> str:
    digits = rng.choices((1, 2, 3, 4, 5), (6, 12, 16, 54, 12))[0]
    return str(rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1))


def _marked(text: str, category: str) -> str:
    """Numbers of four digits have marks of their own."""
    return "number of 4 digits" if category == "number" and len(text) == 4 else category


def _two_lines(canvas: Canvas, color: str) -> Drawing:
    rng = canvas.rng
    word, number = _word(rng, canvas.style), _number(rng)
    lines = [word, number] if rng.random() < 0.5 else [number, word]
    printed = [
        (line, _print(canvas, line, color, band, rng.choice((0.0, 0.6))))
        for line, band in zip(lines, ((0.04, 0.5), (0.5, 0.96)), strict=True)
    ]
    marks = dict(printed)
    exchanges = _about_number(rng, number, marks[number]) + _about_word(rng, word, marks[word])
    question = rng.choice(("What does it say?", "Read the text.", "What is written here?"))
    answer = f'It says "{lines[0]}" and "{lines[1]}".'
    exchanges.append(Exchange(question, answer, "two lines", spelled(answer, *printed)))
    exchanges += _about_both(rng, canvas, color)
    first, second = (
        f"the number {line}" if line.isdigit() else f'the word "{line}"' for line in lines
    )
    description = (
        f"The picture shows {first} above {second} in {color} on "
        f"{article(canvas.background)} background."
    )
    return Drawing(
        canvas.image, exchanges, description, spelled(description, *printed), canvas.marks
    )


def _print(
    canvas: Canvas, text: str, color: str, band: tuple[float, float], spread: float
) -> Thing:
    """One line within a band of the height (shares of it). spread: how far from its middle."""
    rng = canvas.rng
    top, bottom = (canvas.height * share for share in band)
    room_x, room_y = canvas.width * 0.94, (bottom - top) * 0.9
    share = rng.uniform(_SMALLEST, _BIGGEST)
    face = canvas.face(share)
    left, upper, right, lower = face.getbbox(text)
    fit = min(1.0, room_x / (right - left), room_y / (lower - upper))
    if fit < 1:
        face = face.font_variant(size=max(8, int(face.size * fit * rng.uniform(0.8, 1.0))))
        left, upper, right, lower = face.getbbox(text)
    margin = 4
    width, height = int(right - left) + 2 * margin, int(lower - upper) + 2 * margin
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((margin - left, margin - upper), text, fill=255, font=face)
    if rng.random() < 0.3:
        turn = rng.uniform(-5, 5)
        mask = mask.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    slack_x = max(0.0, canvas.width - mask.width) / 2
    slack_y = max(0.0, bottom - top - mask.height) / 2
    x = (canvas.width - mask.width) / 2 + rng.uniform(-spread, spread) * slack_x * 0.95
    y = (top + bottom - mask.height) / 2 + rng.uniform(-spread, spread) * slack_y * 0.95
    canvas.image.paste(shade(rng, color), (int(x), int(y)), mask)
    ink_x, ink_y = x + (mask.width - width) / 2 + margin, y + (mask.height - height) / 2 + margin
    return canvas.mark_text(text, color, face, (ink_x, ink_y))


def _about_number(rng: random.Random, number: str, marks: Thing) -> list[Exchange]:
    question = rng.choice(
        (
            "What number is this?",
            "What is the number?",
            "Which number is shown?",
            "Read the number.",
        )
    )
    line = number, marks
    answer, as_json = f"The number is {number}.", json.dumps({"number": int(number)})
    return [
        Exchange(question, answer, _marked(number, "number"), spelled(answer, line)),
        Exchange(json_question(rng, ["number"]), as_json, "json", spelled(as_json, line)),
    ]


def _about_word(rng: random.Random, word: str, marks: Thing) -> list[Exchange]:
    question = rng.choice(
        ("What word is this?", "What is the word?", "Which word is written?", "Read the word.")
    )
    line = word, marks
    answer, as_json = f'The word is "{word}".', json.dumps({"word": word})
    return [
        Exchange(question, answer, "word", spelled(answer, line)),
        Exchange(json_question(rng, ["word"]), as_json, "json", spelled(as_json, line)),
    ]


def _about_both(rng: random.Random, canvas: Canvas, color: str) -> list[Exchange]:
    kind = rng.choice(KINDS)
    return [
        Exchange(
            rng.choice(("What color is the text?", "Which color does the text have?")),
            f"The text is {color}.",
            "color of text",
        ),
        Exchange(
            "What color is the background?", f"The background is {canvas.background}.", "background"
        ),
        rng.choice(
            (
                Exchange(
                    "How many shapes are there?",
                    f"There are {counted(0, '', 'shapes')}.",
                    "count of none",
                ),
                Exchange(f"Is there {article(kind)}?", f"No, there is no {kind}.", "presence"),
            )
        ),
    ]
