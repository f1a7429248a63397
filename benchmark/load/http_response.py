"""One HTTP/1.1 response, from bytes that may be cut anywhere.

Source: RFC 9112. Our own, as what a token costs here is the load generator's own limit.
"""

from enum import Enum, auto

_MAX_HEAD_BYTES = 1 << 16
_MAX_SIZE_LINE_BYTES = 1 << 10


class _Expects(Enum):
    HEAD = auto()
    SIZE = auto()  # the line before a chunk
    CHUNK = auto()  # its bytes, and the line's end after them
    TRAILER = auto()
    LENGTH = auto()  # the rest of a body of known length
    CLOSE = auto()  # a body that the connection's end ends
    NOTHING = auto()


class HttpResponse:
    """status and headers (names in lower case) are known once the head is there. Raises ValueError
    for what is not HTTP."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self._expects = _Expects.HEAD
        self._pending = b""
        self._num_left = 0

    @property
    def is_complete(self) -> bool:
        return self._expects is _Expects.NOTHING

    @property
    def ends_at_close(self) -> bool:
        """The connection's end is the body's proper end."""
        return self._expects is _Expects.CLOSE

    @property
    def keeps_alive(self) -> bool:
        """The connection may carry another request."""
        return self.is_complete and self.headers.get("connection", "").lower() != "close"

    def feed(self, data: bytes) -> bytes:
        """→ the part of the body that these bytes hold."""
        data, self._pending = self._pending + data, b""
        if self._expects is _Expects.HEAD:
            data = self._read_head(data)
        if self._expects is _Expects.CLOSE:
            return data
        if self._expects is _Expects.LENGTH:
            body = data[: self._num_left]
            self._num_left -= len(body)
            if not self._num_left:
                self._expects = _Expects.NOTHING
            return body
        return self._read_chunks(data)

    def _read_head(self, data: bytes) -> bytes:
        """→ what follows the head; nothing while it is not whole."""
        head, end, rest = data.partition(b"\r\n\r\n")
        if not data.startswith(b"HTTP/1."[: len(data)]) or len(head) > _MAX_HEAD_BYTES:
            raise ValueError("the answer is not HTTP/1.1")
        if not end:
            self._pending = data
            return b""
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(maxsplit=2)
        if len(words) < 2 or not words[1].isdigit():
            raise ValueError("the answer is not HTTP/1.1")
        if words[1].startswith("1"):  # 100 Continue, 103 Early Hints: the real one follows
            return self._read_head(rest) if rest else b""
        self.status = int(words[1])
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._expects = _Expects.SIZE
        elif "content-length" in self.headers:
            self._num_left = _size(self.headers["content-length"], 10)
            self._expects = _Expects.LENGTH if self._num_left else _Expects.NOTHING
        else:
            self._expects = _Expects.CLOSE
        return rest

    def _read_chunks(self, data: bytes) -> bytes:
        body: list[bytes] = []
        start = 0
        while self._expects in (_Expects.SIZE, _Expects.CHUNK, _Expects.TRAILER):
            if self._expects is _Expects.CHUNK:
                piece = data[start : start + self._num_left]
                # The last two bytes are the line's end.
                body.append(piece[: max(self._num_left - 2, 0)])
                start += len(piece)
                self._num_left -= len(piece)
                if self._num_left:
                    break
                self._expects = _Expects.SIZE
                continue
            end = data.find(b"\r\n", start)
            if end < 0:
                self._pending = data[start:]
                if len(self._pending) > _MAX_SIZE_LINE_BYTES:
                    raise ValueError("a chunk of the answer has no size")
                break
            line, start = data[start:end], end + 2
            if self._expects is _Expects.TRAILER:
                if not line:
                    self._expects = _Expects.NOTHING
            elif size := _size(line.partition(b";")[0], 16):
                self._num_left = size + 2
                self._expects = _Expects.CHUNK
            else:
                self._expects = _Expects.TRAILER
        return b"".join(body)


def _size(digits: str | bytes, base: int) -> int:
    size = int(digits, base)
    if size < 0:
        raise ValueError("a size of the answer is less than nothing")
    return size
