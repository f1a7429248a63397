"""Conversations → rows of tokens, several questions about one picture in one row.

A row is a prefix (earlier turns and the picture) and segments, each a question with its answer.
A segment sees the prefix and itself, at the positions that it would have alone: so a row is as
many conversations, for the price of one picture.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from model_config import ModelConfig, load_card
from scoring.image_processor import to_hd_picture
from scoring.prompt import ChatImage, ChatMessage, PromptBuilder, load_tokenizer

from .canvas import Exchange, Look, Style, Thing
from .drawings import draw_one
from .naming import labels_of
from .placement import Placement
from .small_talk import asked_about_none, small_talk, system_text, without_picture

IMAGE = -1
_PREFIX = -1
_MOST_TOKENS = 352
_SEGMENTS_OF_TALK = 5
# To spell takes longest to learn.
_SHARES = (33, 42, 25)


@dataclass
class Row:
    """token_ids: −1 in the picture's slots. segments: _PREFIX or the segment's number, for each
    token. is_answer: whether the token is one that the model must say. categories: of the
    segments, whose marks each counts among. looks: the answers' tokens, as places in the row, each
    with the tokens to look at, by thing. names: see naming.labels_of."""

    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    is_answer: list[bool] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    looks: list[tuple[int, list[list[int]]]] = field(default_factory=list)
    pixels: npt.NDArray[np.uint8] | None = None
    names: Tensor | None = None

    def add(self, token_ids: list[int], segment: int, start: int, answer: list[bool]) -> None:
        self.token_ids += token_ids
        self.positions += range(start, start + len(token_ids))
        self.segments += [segment] * len(token_ids)
        self.is_answer += answer


class RowBuilder:
    """Builds rows of _MOST_TOKENS tokens or fewer through the server's own PromptBuilder."""

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        tokenizer = load_tokenizer(directory)
        vocabulary = tokenizer.get_vocab()
        self._pieces = {token_id: piece for piece, token_id in vocabulary.items()}
        self._vision = config.vision
        self._prompts = PromptBuilder(tokenizer, load_card("demo"), config.vision)
        self._assistant, self._end = vocabulary["<|assistant|>"], vocabulary["<|end|>"]

    def picture_row(self, rng: random.Random, style: Style, num_segments: int) -> Row:
        drawing = draw_one(rng, style, _SHARES)
        *about, description = drawing.exchanges
        chosen = rng.sample(about, min(num_segments - 1, len(about)))
        exchanges = [*chosen, description]
        rng.shuffle(exchanges)
        if rng.random() < 0.12:
            exchanges.append(small_talk(rng))
        earlier = _earlier_turns(rng, style) if rng.random() < 0.2 else []
        # The transform leaves its own output as it is, and so costs little for every segment.
        image = Image.fromarray(to_hd_picture(drawing.image, self._vision).pixels)
        conversations, looks = [], []
        for exchange in exchanges:
            asked = [exchange]
            turns = [_question(exchange, image), _answer(exchange)]
            if rng.random() < 0.12:
                asked.append(rng.choice(about))
                turns += [_question(asked[1]), _answer(asked[1])]
            conversations.append([*earlier, *turns])
            looks.append([exchange.looks for exchange in asked])
        row = self.row_of(conversations, [exchange.category for exchange in exchanges])
        placement = Placement(*drawing.image.size, (image.height, image.width), self._vision)
        row.names = labels_of(drawing.marks, placement)
        self._look(row, looks, placement)
        return row

    def seen_only(self, rng: random.Random, style: Style) -> Row:
        """A picture and the names of what it shows, without a word about it."""
        drawing = draw_one(rng, style, _SHARES)
        pixels = to_hd_picture(drawing.image, self._vision).pixels
        placement = Placement(*drawing.image.size, pixels.shape, self._vision)
        return Row(pixels=pixels, names=labels_of(drawing.marks, placement))

    def talk_row(self, rng: random.Random, style: Style) -> Row:
        """Conversations without a picture."""
        conversations, categories = [], []
        for _ in range(_SEGMENTS_OF_TALK):
            turns = [ChatMessage("system", system_text(rng))] if rng.random() < 0.25 else []
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                exchange = _exchange_without_picture(rng, style)
                turns += [_question(exchange), _answer(exchange)]
            conversations.append(turns)
            categories.append(exchange.category)
        return self.row_of(conversations, categories)

    def row_of(self, conversations: list[list[ChatMessage]], categories: list[str]) -> Row:
        """Conversations that are alike up to their picture, if they have one."""
        row = Row()
        for segment, messages in enumerate(conversations):
            prompt = self._prompts.build(messages)
            token_ids = prompt.token_ids[:-1]  # without the turn to come
            answers = self._answers(token_ids)
            shared = 1
            if prompt.images:
                span = prompt.images[0]
                shared = span.start + span.picture.num_tokens + 1
                row.pixels = span.picture.pixels
            if len(row.token_ids) + len(token_ids) > _MOST_TOKENS and segment > 0:
                break
            if segment == 0:
                row.add(token_ids[:shared], _PREFIX, 0, [False] * shared)
            row.add(token_ids[shared:], segment, shared, answers[shared:])
            row.categories.append(categories[segment])
        return row

    def _look(self, row: Row, looks: list[list[tuple[Look, ...]]], placement: Placement) -> None:
        """Fill the row's. looks: by segment, of its answers."""
        first_slot = row.token_ids.index(IMAGE)

        def tokens(thing: Thing) -> list[int]:
            shown = {first_slot + slot for mark in thing for slot in placement.slots(mark)}
            return sorted(shown) or [0]

        for segment, of_answers in enumerate(looks[: len(row.categories)]):
            for span, of_answer in zip(_spans(row, segment), of_answers, strict=True):
                end = -1  # The first token begins with a space that is not the answer's.
                for at in span:
                    start, end = end, end + len(self._pieces[row.token_ids[at]])
                    seen = (look for look in of_answer if start < look.end and look.start < end)
                    if look := next(seen, None):
                        row.looks.append((at, [tokens(thing) for thing in look.things]))

    def _answers(self, token_ids: list[int]) -> list[bool]:
        """From after <|assistant|> to <|end|>, this included."""
        answers, inside = [], False
        for token_id in token_ids:
            answers.append(inside)
            if token_id == self._assistant:
                inside = True
            elif token_id == self._end:
                inside = False
        return answers


def _spans(row: Row, segment: int) -> list[range]:
    """The answers of a segment, as places in the row, without the tokens that end them."""
    spans, start = [], None
    for at, (of, is_answer) in enumerate(zip(row.segments, row.is_answer, strict=True)):
        inside = of == segment and is_answer
        if inside and start is None:
            start = at
        elif not inside and start is not None:
            spans.append(range(start, at - 1))
            start = None
    return spans


def _question(exchange: Exchange, image: Image.Image | None = None) -> ChatMessage:
    images = () if image is None else (ChatImage(image),)
    return ChatMessage("user", exchange.question, images)


def _answer(exchange: Exchange) -> ChatMessage:
    return ChatMessage("assistant", exchange.answer)


def _earlier_turns(rng: random.Random, style: Style) -> list[ChatMessage]:
    """What was said before the picture came: a system message, small talk, or questions about an
    earlier picture, which the model sees no more and whose answers are not to be repeated."""
    turns = [ChatMessage("system", system_text(rng))] if rng.random() < 0.5 else []
    for _ in range(rng.choice((0, 1, 1, 2)) if turns else rng.choice((1, 1, 2))):
        exchange = rng.choice(draw_one(rng, style).exchanges)
        if rng.random() < 0.25:
            exchange = small_talk(rng)
        turns += [_question(exchange), _answer(exchange)]
    return turns


def _exchange_without_picture(rng: random.Random, style: Style) -> Exchange:
    if rng.random() < 0.6:
        return small_talk(rng)
    if rng.random() < 0.25:
        return without_picture(asked_about_none(rng))
    return without_picture(rng.choice(draw_one(rng, style).exchanges).question)
