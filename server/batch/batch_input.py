"""A batch's input, read line by line as there is room for more."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO

from .lines import AnsweredLine, BadLine, BatchRequest, Place, parse_line, split_lines
from .seen_ids import SeenIds

Line = BatchRequest | BadLine | AnsweredLine


def parse_lines(file: BinaryIO, name: str | None = None) -> Iterator[BatchRequest | BadLine]:
    """Every line that is not empty. name: the file's, where there are several."""
    for number, (line, num_bytes) in enumerate(split_lines(file), start=1):
        if line.strip():
            yield parse_line(line, Place(number, name), num_bytes)


def judge_lines(lines: Iterable[BatchRequest | BadLine], answered: SeenIds) -> Iterator[Line]:
    """An id that an earlier line has makes a line bad, and nameless: in the output an id stands
    once."""
    seen = SeenIds()
    try:
        for line in lines:
            yield _judge(line, seen, answered)
    finally:
        seen.close()


def _judge(line: BatchRequest | BadLine, seen: SeenIds, answered: SeenIds) -> Line:
    if line.custom_id is None:
        return line
    earlier = seen.add(line.custom_id, str(line.place))
    if earlier is None:
        return AnsweredLine(line.num_bytes) if line.custom_id in answered else line
    message = f"its custom_id {line.custom_id!r} is that of {earlier}"
    if isinstance(line, BadLine):
        return replace(line, custom_id=None, message=f"{line.message}; {message}")
    return BadLine(line.place, line.num_bytes, None, message)
