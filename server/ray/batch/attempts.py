"""What was begun and not ended: whoever dies over it cannot say so, so it is told before."""

from collections import Counter

# A line that was sent alone and whose worker died meanwhile so often is not sent again.
MAX_DEATHS = 2
# Before a worker whose server could not start is itself started again: what a dead one held, the
# memory of a GPU say, is free by then, and a mount may be there again.
_PAUSES_S = (2.0, 4.0, 8.0, 16.0)


class Attempts:
    """An actor, the only one of a batch. Started anew it knows of nothing, and lines that workers
    die of are tried for longer."""

    def __init__(self) -> None:
        self._blocks: Counter[str] = Counter()
        self._lines: Counter[tuple[str, int]] = Counter()
        self._failed_starts: Counter[str] = Counter()
        self._has_served = False

    def of(self, block: str) -> tuple[int, dict[int, int]]:
        """→ how often the block was begun, and how often its lines were sent alone, without an
        end."""
        lines = {number: count for (name, number), count in self._lines.items() if name == block}
        return self._blocks[block], lines

    def begin(self, block: str) -> None:
        self._blocks[block] += 1

    def begin_line(self, block: str, number: int) -> None:
        self._lines[block, number] += 1

    def end_line(self, block: str, number: int) -> None:
        del self._lines[block, number]

    def end(self, block: str) -> None:
        """What its lines have done is kept: a task of Ray's may hold several blocks, and begins
        again at its first when a worker dies over a later one."""
        del self._blocks[block]

    def server_started(self, worker: str) -> None:
        self._has_served = True
        del self._failed_starts[worker]

    def server_failed(self, worker: str) -> float | None:
        """→ seconds after which the worker should be started again; None if that is of no use: no
        server has ever started, or this worker's did not so often in a row."""
        self._failed_starts[worker] += 1
        num_failed = self._failed_starts[worker]
        if not self._has_served or num_failed > len(_PAUSES_S):
            return None
        return _PAUSES_S[num_failed - 1]
