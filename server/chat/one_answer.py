"""One question, and nothing but its answer on stdout: for pipes and scripts."""

import os
import sys
from typing import Any

from ..client.endpoint import Endpoint
from ..client.errors import ClientError
from ..client.terminal_text import printable
from .conversation import Conversation
from .question import Question


def print_one_answer(
    endpoint: Endpoint,
    model: str,
    conversation: Conversation,
    parameters: dict[str, Any],
    text: str,
) -> None:
    """Raises ClientError."""
    text = text.strip()
    if not text:
        raise ClientError("the prompt is empty: give it as an argument, or on stdin")
    question = Question(endpoint, model, conversation.ask(text), parameters)
    is_begun = False
    try:
        for piece in question.pieces():
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
            is_begun = True
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the answer has had enough; the interpreter would flush once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise ClientError("the answer's reader is gone") from None
    except ClientError:
        if is_begun:
            sys.stdout.write("\n")
        raise
