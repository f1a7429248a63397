"""The conversation in a terminal."""

import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.text import Text

from ..client.endpoint import Endpoint
from ..client.errors import ClientError
from ..client.readiness import notice_of, wait_until_ready
from ..client.terminal_text import printable
from .conversation import Conversation, to_picture
from .prompt_line import PromptLine
from .question import Question

_HELP = """\
/image PATH   show a picture with the next question (a URL is passed on); alone: take it off again
/system TEXT  say what the model shall heed; alone: nothing any more
/retry        send the question again that got no answer
/clear        forget what was said
/exit         leave, as Ctrl-D does; Ctrl-C stops an answer
A line that ends with \\ goes on in the next; pasted text may have several."""


class Session:
    """From the greeting to /exit."""

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        conversation: Conversation,
        parameters: dict[str, Any],
    ) -> None:
        self._endpoint = endpoint
        self._model = model
        self._conversation = conversation
        self._parameters = parameters
        self._console = Console(highlight=False)
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._attach,
            "/system": self._set_system,
            "/retry": self._retry,
            "/clear": self._clear,
            "/help": lambda _: self._say(_HELP),
        }
        self._line = PromptLine((*self._commands, "/exit"))

    def run(self) -> None:
        """Until the user leaves. Raises ClientError only before the first question."""
        self._greet()
        while True:
            try:
                text = self._line.read(self._prompt())
                if text == "/exit":
                    return
                self._handle(text)
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                self._say("\nCtrl-D leaves")

    def _greet(self) -> None:
        with self._console.status("") as status:
            wait_until_ready(self._endpoint, status.update)
        title = Text(printable(self._model), style="bold")
        if notice := notice_of(self._endpoint):
            title.append(f" {printable(notice.partition(':')[0])}", style="bold yellow")
        self._console.print(title.append(f" at {self._endpoint.url}", style="not bold dim"))
        self._say("/help tells the commands, Ctrl-D leaves")

    def _prompt(self) -> str:
        picture = self._conversation.picture
        return f"[{printable(picture.name)}] > " if picture else "> "

    def _handle(self, text: str) -> None:
        if not text.startswith("/"):
            if text:
                self._ask(text)
            return
        name, _, argument = text.partition(" ")
        command = self._commands.get(name)
        if command is None:
            self._fail(f"there is no command {name}; /help tells those there are")
        else:
            command(argument.strip())

    def _ask(self, text: str) -> None:
        """Stream an answer. Whatever goes wrong, the chat goes on."""
        messages = self._conversation.ask(text)
        question = Question(self._endpoint, self._model, messages, self._parameters)
        answer = ""
        try:
            with closing(question.pieces()) as pieces:
                with self._console.status(""):
                    piece = next(pieces, None)
                while piece is not None:
                    answer += piece
                    self._write(piece)
                    piece = next(pieces, None)
        except KeyboardInterrupt:
            self._write("\n")
            self._say("stopped")
            if not answer:
                return
        except ClientError as error:
            self._write("\n" if answer else "")
            self._fail(f"{error} (/retry sends it again)")
            return
        else:
            self._write("\n")
            self._say(_summary(question))
        self._conversation.answered(text, answer)

    def _attach(self, named: str) -> None:
        if not named:
            self._conversation.picture = None
            self._say("no picture goes with the next question")
            return
        try:
            self._conversation.picture = to_picture(named)
        except ClientError as error:
            self._fail(str(error))

    def _set_system(self, text: str) -> None:
        self._conversation.system = text or None
        self._say("the system message is set" if text else "there is no system message")

    def _retry(self, _: str) -> None:
        if self._conversation.unanswered is None:
            self._fail("every question has got its answer")
        else:
            self._ask(self._conversation.unanswered)

    def _clear(self, _: str) -> None:
        self._conversation.clear()
        self._say("all is forgotten")

    def _write(self, text: str) -> None:
        sys.stdout.write(printable(text))
        sys.stdout.flush()

    def _say(self, text: str) -> None:
        self._console.print(Text(printable(text), style="dim"))

    def _fail(self, text: str) -> None:
        self._console.print(Text(printable(text), style="red"))


def _summary(question: Question) -> str:
    """What an answer took."""
    parts = []
    if question.num_tokens is not None:
        parts.append(f"{question.num_tokens} tokens")
    if question.time_to_first_token_s is not None:
        parts.append(f"first after {question.time_to_first_token_s * 1000:.0f} ms")
    if question.tokens_per_s is not None:
        parts.append(f"{question.tokens_per_s:.1f} tokens/s")
    if question.finish_reason == "length":
        parts.append("cut off: max_tokens or the context's end")
    return ", ".join(parts)
