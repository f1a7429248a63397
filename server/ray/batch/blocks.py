"""Lines in blocks: what is one task, is begun again as one, and has one part of the output."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Self

from ...batch.batch_input import judge_lines
from ...batch.lines import AnsweredLine, BadLine, BatchRequest
from ...batch.seen_ids import SeenIds
from .parquet_rows import ParquetRows
from .source import Source, SourceLine, Start

_LINES = 64
# A block's lines are in a worker's memory together.
_BYTES = 16 << 20


@dataclass
class Block:
    """Up to 64 lines of a file. What only a look at the whole input tells, it knows by number: the
    lines that are answered in another part or before, and those with another line's id.

    file: its path; shown: its name in messages, where there are several.
    """

    file: str
    shown: str | None
    start: Start
    end: int = 0
    num_lines: int = 0
    num_bytes: int = 0
    answered: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The same whenever the file is read, and no other block's."""
        digest = hashlib.sha256(self.file.encode()).hexdigest()[:12]
        return f"{PurePosixPath(self.file).stem[:60]}-{digest}-{self.start.number:010}"

    def has_room(self, source: SourceLine) -> bool:
        """Whether a line of its file may be one of it."""
        return self.num_lines < _LINES and self.num_bytes + source.line.num_bytes <= _BYTES

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        value = json.loads(text)
        bad = {int(number): message for number, message in value.pop("bad").items()}
        return cls(**{**value, "start": Start(**value["start"]), "bad": bad})

    def lines(self, source: Source, rows: ParquetRows) -> Iterator[BatchRequest | BadLine]:
        """Those that are to be asked, or told to be wrong. Raises what Source.lines raises."""
        answered = set(self.answered)
        with closing(source.lines(self.file, self.start, self.shown, rows)) as found:
            for one in found:
                number, line = one.start.number, one.line
                if number in self.bad:
                    yield BadLine(line.place, line.num_bytes, None, self.bad[number])
                elif number not in answered:
                    yield line
                if number == self.end:  # the next row is the next block's to read
                    return


def find_blocks(source: Source, files: list[str], answered: SeenIds) -> Iterator[Block]:
    """One pass over the input, in bounded memory. answered: in the output already. Raises what
    Source.lines raises."""
    sources = _Sources(source, files)
    block: Block | None = None
    for line in judge_lines(sources.lines(), answered):
        last = sources.last
        if block is None or sources.file != block.file or not block.has_room(last):
            if block is not None:
                yield block
            block = Block(sources.file, sources.shown, last.start)
        number = block.end = last.start.number
        block.num_lines += 1
        if isinstance(line, AnsweredLine):
            block.answered.append(number)
            continue
        block.num_bytes += line.num_bytes
        if isinstance(line, BadLine) and line != last.line:
            block.bad[number] = line.message
    if block is not None:
        yield block


class _Sources:
    """All files' lines, one after the other; remembers where the last one was from."""

    last: SourceLine
    file: str

    def __init__(self, source: Source, files: list[str]) -> None:
        self._source = source
        self._files = files

    @property
    def shown(self) -> str | None:
        return self._source.url(self.file) if len(self._files) > 1 else None

    def lines(self) -> Iterator[BatchRequest | BadLine]:
        with closing(ParquetRows()) as rows:
            for file in self._files:
                self.file = file
                for line in self._source.lines(file, Start(), self.shown, rows):
                    self.last = line
                    yield line.line
