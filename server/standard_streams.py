"""Standard streams that are there, whoever started the process."""

import os
import sys


def open_standard_streams() -> None:
    """Where one is closed, put nothing in its place. The next socket would get its number, and what
    is meant for the log would go to a caller."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  # for as long as we run
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
