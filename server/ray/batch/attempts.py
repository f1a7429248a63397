"""What was begun and not ended: whoever dies over a line cannot say so, so it is told before."""

from collections import Counter

# A line that was sent alone and whose worker died meanwhile so often is not sent again.
MAX_DEATHS = 2


class Attempts:
    """An actor, the only one of a batch. Started anew it knows of nothing, and lines that workers
    die of are tried for longer."""

    def __init__(self) -> None:
        self._blocks: Counter[str] = Counter()
        self._lines: dict[str, Counter[int]] = {}

    def begin(self, block: str) -> tuple[int, dict[int, int]]:
        """→ how often the block was begun before, and how often its lines were sent alone, without
        an end."""
        earlier = self._blocks[block]
        self._blocks[block] += 1
        return earlier, dict(self._lines.get(block, {}))

    def begin_line(self, block: str, number: int) -> None:
        self._lines.setdefault(block, Counter())[number] += 1

    def end_line(self, block: str, number: int) -> None:
        self._lines.get(block, Counter()).pop(number, None)

    def end(self, block: str) -> None:
        self._blocks.pop(block, None)
        self._lines.pop(block, None)
