"""A batch's input file, read line by line as there is room for more."""

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from .lines import AnsweredLine, BadLine, BatchRequest, parse_line, split_lines
from .seen_ids import SeenIds

Line = BatchRequest | BadLine | AnsweredLine


def read_batch(file: BinaryIO, answered: SeenIds) -> Iterator[Line]:
    """Every line that is not empty. An id that an earlier line has makes a line bad, and nameless:
    in the output an id stands once."""
    seen = SeenIds()
    try:
        for number, (line, num_bytes) in enumerate(split_lines(file), start=1):
            if line.strip():
                yield _judge(parse_line(line, number, num_bytes), seen, answered)
    finally:
        seen.close()


def _judge(line: BatchRequest | BadLine, seen: SeenIds, answered: SeenIds) -> Line:
    if line.custom_id is None:
        return line
    earlier = seen.add(line.custom_id, line.number)
    if earlier is None:
        return AnsweredLine(line.num_bytes) if line.custom_id in answered else line
    message = f"its custom_id {line.custom_id!r} is that of line {earlier}"
    if isinstance(line, BadLine):
        return replace(line, custom_id=None, message=f"{line.message}; {message}")
    return BadLine(line.number, line.num_bytes, None, message)
