"""Synthetic conversations: seeded, and each unlike every other from its first word on, so that no
server's prefix or picture cache knows it."""

import base64
import io
import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

from PIL import Image, ImageDraw

from .endpoint import Message

Mix = Literal["text", "image", "multi-turn", "mixed"]
MIXES: tuple[Mix, ...] = get_args(Mix)
_KINDS = ("text", "image", "multi-turn")

# Ordinary words, a token each for most vocabularies.
_COMMON = """
the of and to in a is that for it was on are as with his they at be this from have or by one
had not but what all were when we there can an your which their said if do will each about
how up out them then she many some so these would other into has more her two like him see
time could no make than first been its who now people my made over did down only way find
use may water long little very after words called just where most know get through back
much before go good new write our used me man too any day same right look think also around
another came come work three word must because does part even place well such here take why
things help put years different away again off went old number great tell men say small
"""
WORDS = tuple(_COMMON.split())
_TEMPLATE_TOKENS = 16  # about what the number and the chat's template add to the words
_COLOURS = ("red", "green", "blue", "orange", "purple", "white", "black", "yellow")
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Conversation:
    """What a user says, turn by turn. contents: as the field of a message has them."""

    kind: str
    contents: tuple[str | list[dict[str, Any]], ...]

    def messages(self, answers: list[str]) -> list[Message]:
        """Up to the turn that follows so many answers."""
        messages: list[Message] = []
        for content, answer in zip(self.contents, answers, strict=False):
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": self.contents[len(answers)]}]


@dataclass(frozen=True)
class Workload:
    """What is asked. prompt_tokens: about, of each user's turn; max_tokens: of each answer.
    turns: of a conversation of the mix multi-turn. image_px: the side of the square pictures.
    mixed: in turns a text, a picture and a conversation of several turns."""

    mix: Mix
    prompt_tokens: int
    max_tokens: int
    turns: int
    image_px: int
    seed: int

    def conversation(self, number: int) -> Conversation:
        """The same for the same seed and number, wherever it is asked for."""
        kind = _KINDS[number % len(_KINDS)] if self.mix == "mixed" else self.mix
        choose = random.Random(f"{self.seed} {number}")
        num_turns = self.turns if kind == "multi-turn" else 1
        contents: list[str | list[dict[str, Any]]] = [
            self._text(choose, f"{self.seed:06}-{number}-{turn}") for turn in range(num_turns)
        ]
        if kind == "image":
            url = picture_url(choose, self.image_px, str(number))
            image = {"type": "image_url", "image_url": {"url": url}}
            contents = [[image, {"type": "text", "text": contents[0]}]]
        return Conversation(kind, tuple(contents))

    def _text(self, choose: random.Random, name: str) -> str:
        num_words = max(self.prompt_tokens - _TEMPLATE_TOKENS, 1)
        return f"{name}: " + " ".join(choose.choices(WORDS, k=num_words))


def picture_url(choose: random.Random, side: int, caption: str) -> str:
    """A data URL of a drawing of side × side pixels: shapes and a caption before soft colours,
    as a JPEG about as large as a photograph's."""
    clouds = Image.frombytes("RGB", (16, 16), choose.randbytes(16 * 16 * 3))
    picture = clouds.resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = choose.randrange(side), choose.randrange(side)
        size = choose.randrange(side // 8 + 1, side // 3 + 2)
        shape = choose.choice((draw.rectangle, draw.ellipse))
        shape((x, y, x + size, y + size), fill=choose.choice(_COLOURS))
    draw.text((side // 4, side // 4), caption, fill="black", font_size=max(side // 8, 8))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
