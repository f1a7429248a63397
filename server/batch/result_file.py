"""A batch's output file: at whatever moment a batch was ended, even by force, it can go on."""

import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO, Self

from ..client.errors import ClientError
from .lines import MAX_LINE_BYTES, split_lines
from .results import BEGINNING, BatchResult, parse_result
from .seen_ids import SeenIds


class ResultFile:
    """answered: the ids whose answers are in it. One batch at a time has the file."""

    def __init__(self, path: Path, *, restart: bool) -> None:
        """Open or make it. Of what is in it the answers stay; what failed leaves it, to be tried
        again, and so does a last line that was cut off. restart: nothing stays.

        Raises ClientError for a file that cannot be written, that another batch has, or that holds
        anything but a batch's output.
        """
        self.answered = SeenIds()
        self._path = path.resolve()  # a link stays one
        try:
            self._file = _open_alone(self._path)
            if restart:
                self._file.truncate(0)
            else:
                self._keep_answers()
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ClientError(f"{path} cannot be written: {why}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.answered.close()

    def write(self, result: BatchResult) -> None:
        """At once and in one piece. Raises ClientError, for a full disk say."""
        try:
            rest = memoryview(result.to_line())
            while rest:  # not buffered: what a full disk refuses would be tried again at the end
                rest = rest[os.write(self._file.fileno(), rest) :]
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ClientError(f"{self._path} cannot be written: {why}") from error

    def _keep_answers(self) -> None:
        end, all_stay = self._find_answers()
        self._file.truncate(end)
        if not all_stay:
            self._rewrite()
        self._end_last_line()

    def _find_answers(self) -> tuple[int, bool]:
        """Fill `answered` → where the last whole line ends, and whether every line is to stay."""
        end, all_stay = 0, True
        self._file.seek(0)
        for number, (line, num_bytes) in enumerate(split_lines(self._file), start=1):
            if _is_cut_off(line, num_bytes):
                break
            all_stay &= self._is_new_answer(line, number)
            end += num_bytes
        return end, all_stay

    def _is_new_answer(self, line: bytes, number: int) -> bool:
        try:
            result = parse_result(line)
        except ValueError:
            raise ClientError(
                f"line {number} of {self._path} is not of a batch's output; --restart overwrites it"
            ) from None
        if not result.is_answer or not isinstance(result.custom_id, str):
            return False
        return self.answered.add(result.custom_id, f"line {number}") is None

    def _rewrite(self) -> None:
        """Put a file of the answers alone in its place, once it is whole."""
        beside = self._path.with_name(self._path.name + ".rewritten")
        beside.unlink(missing_ok=True)
        kept = _open_alone(beside)
        shutil.copymode(self._path, beside)
        self.answered.close()
        self.answered = SeenIds()
        self._file.seek(0)
        for number, (line, _) in enumerate(split_lines(self._file), start=1):
            if self._is_new_answer(line, number):
                kept.write(line)
        kept.flush()
        os.fsync(kept.fileno())
        os.replace(beside, self._path)
        self._file.close()
        self._file = kept

    def _end_last_line(self) -> None:
        """Where an editor left no line break at the end, the next answer would join that line."""
        if self._file.seek(0, os.SEEK_END) > 0:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                os.write(self._file.fileno(), b"\n")


def _open_alone(path: Path) -> BinaryIO:
    """To read and append. Raises OSError, and ClientError where another batch has it."""
    file = path.open("a+b")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise ClientError(f"{path} is no file; a batch's output is read again to go on with it")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ClientError(f"another batch writes to {path}") from None
    return file


def _is_cut_off(line: bytes, num_bytes: int) -> bool:
    """Whether it is a last line without its end, and may be one that was being written."""
    if line.endswith(b"\n") or num_bytes > MAX_LINE_BYTES:
        return False
    return line.startswith(BEGINNING) or BEGINNING.startswith(line)
