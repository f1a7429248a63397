"""Server-sent events, from bytes that may be cut anywhere.

Source: the HTML standard, "Server-sent events". Of an event only its data is kept.
"""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventDecoder:
    """Takes a stream's bytes as they come, and gives the data of each event that is whole."""

    def __init__(self) -> None:
        self._pending = b""
        self._ends_in_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """→ the data of the events that these bytes complete."""
        if self._ends_in_return and data.startswith(b"\n"):
            data = data[1:]  # the other half of a line's end
        if b"\r" in data:
            self._ends_in_return = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        elif data:
            self._ends_in_return = False
        *events, self._pending = (self._pending + data).split(b"\n\n")
        return [found for event in events if (found := _data(event)) is not None]


def _data(event: bytes) -> bytes | None:
    """The data lines of an event, joined; None if it has none: a comment, or other fields."""
    lines = [
        line[5:].removeprefix(b" ")
        for line in event.removeprefix(_BYTE_ORDER_MARK).split(b"\n")
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None
