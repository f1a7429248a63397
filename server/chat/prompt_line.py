"""What the user types: readline's editing and history, more than one line, paths completed."""

import glob
import os
from importlib import import_module

_IMAGE = "/image "


class PromptLine:
    """Reads one input at a time. commands: what a line may begin with, for completion."""

    def __init__(self, commands: tuple[str, ...]) -> None:
        self._commands = commands
        try:
            readline = import_module("readline")
        except ImportError:  # a Python built without it: lines are read plainly
            return
        readline.set_completer(self._complete)
        readline.set_completer_delims("")
        readline.parse_and_bind("tab: complete")
        # Pasted line breaks are part of the text then, and do not send it. Python switches it off.
        readline.parse_and_bind("set enable-bracketed-paste on")

    def read(self, prompt: str) -> str:
        """One input; a line that ends with a backslash goes on in the next. Raises EOFError at
        Ctrl-D and KeyboardInterrupt at Ctrl-C."""
        lines = [input(prompt)]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input("… "))
        return "\n".join(lines).replace("\r\n", "\n").replace("\r", "\n").strip()

    def _complete(self, line: str, number: int) -> str | None:
        """readline asks for one possibility after the other."""
        if line.startswith(_IMAGE):
            found = [_IMAGE + path for path in _paths(line.removeprefix(_IMAGE))]
        else:
            found = [command for command in self._commands if command.startswith(line)]
        return found[number] if line.startswith("/") and number < len(found) else None


def _paths(begun: str) -> list[str]:
    """As typed so far, with ~ where it was typed."""
    home = os.path.expanduser("~")
    expanded = os.path.expanduser(begun)
    found = sorted(glob.glob(glob.escape(expanded) + "*"))
    named = [path + "/" if os.path.isdir(path) else path for path in found]
    if begun.startswith("~/"):
        return ["~" + path.removeprefix(home) for path in named]
    return named
