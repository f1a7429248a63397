"""Text of others on its way to a terminal."""

# Line breaks and tabs stay. Other control characters could move the cursor, change the terminal's
# title or its clipboard, and direction overrides show a text that is not there: they are made
# visible. Halves of surrogate pairs cannot be written at all.
_KEPT = "\n\t"
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _KEPT}
_VISIBLE |= {0x7F: "\u2421"}
_VISIBLE |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], "\ufffd")
_VISIBLE |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")


def printable(text: str) -> str:
    """The text, with nothing in it that a terminal would obey."""
    return text.translate(_VISIBLE)
