"""What has been said, and what the next question will carry."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..client.picture_file import to_data_url

# What Python makes of bytes that are no text, and halves that a server may send: JSON has neither.
_UNSENDABLE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Picture:
    """url: a data URL, or one that the server is to fetch. name: for the user."""

    url: str
    name: str


@dataclass(frozen=True)
class Turn:
    """One question, and what came of it."""

    text: str
    picture: Picture | None
    answer: str


class Conversation:
    """The turns that were answered. A question that was not leaves no trace in them, and its
    picture stays for another try."""

    def __init__(self, system: str | None = None, picture: Picture | None = None) -> None:
        self.system = system
        self.picture = picture  # of the next question
        self.unanswered: str | None = None
        self._turns: list[Turn] = []

    def clear(self) -> None:
        """Forget all but the system message."""
        self.picture, self.unanswered = None, None
        self._turns.clear()

    def ask(self, question: str) -> list[dict[str, Any]]:
        """The messages to send, the question last. Of the pictures only the latest is in them: the
        model is shown no other, and servers bound how many a request may have."""
        self.unanswered = question
        turns = [*self._turns, Turn(question, self.picture, "")]
        with_picture = [turn for turn in turns if turn.picture is not None]
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": _sendable(self.system)})
        for turn in turns:
            shown = turn.picture if with_picture and turn is with_picture[-1] else None
            messages.append({"role": "user", "content": _content(turn.text, shown)})
            messages.append({"role": "assistant", "content": _sendable(turn.answer)})
        return messages[:-1]

    def answered(self, question: str, answer: str) -> None:
        self._turns.append(Turn(question, self.picture, answer))
        self.picture, self.unanswered = None, None


def to_picture(named: str) -> Picture:
    """Of a URL, or of a path as people type it or drop it on a terminal: with ~, in quotes, or with
    blanks behind backslashes. Raises PictureFileError."""
    if named[:8].lower().startswith(("http://", "https://", "data:")):
        return Picture(_sendable(named), named[:64])
    # os.path's functions raise nothing where a path cannot be looked at: reading it tells why.
    path = Path(os.path.expanduser(named))
    if not os.path.exists(path):
        path = Path(os.path.expanduser(_unquoted(named)))
    return Picture(to_data_url(path), path.name)


def _sendable(text: str) -> str:
    return _UNSENDABLE.sub("\ufffd", text)


def _unquoted(named: str) -> str:
    if len(named) > 1 and named[0] == named[-1] and named[0] in "'\"":
        return named[1:-1]
    return named.replace("\\ ", " ")


def _content(text: str, picture: Picture | None) -> str | list[dict[str, Any]]:
    text = _sendable(text)
    if picture is None:
        return text
    return [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": picture.url}},
    ]
