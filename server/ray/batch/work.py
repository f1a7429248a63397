"""What a batch is to ask."""

from dataclasses import dataclass, field

from .blocks import Block

# What a worker's blocks may have of lines, all together, and how many there may be, each with a
# thread of its own; but two there always are.
_MAX_BYTES = 1 << 30
_MAX_BLOCKS = 128


@dataclass
class Work:
    """What is to be asked: of each block its description, as it travels. num_answered: lines beside
    them, answered before."""

    blocks: list[str] = field(default_factory=list)
    num_lines: int = 0
    num_bytes: int = 0
    max_block_bytes: int = 1
    num_answered: int = 0

    def add(self, block: Block) -> None:
        self.num_answered += len(block.answered)
        num_lines = block.num_lines - len(block.answered)
        if num_lines == 0:
            return
        self.blocks.append(block.to_json())
        self.num_lines += num_lines
        self.num_bytes += block.num_bytes
        self.max_block_bytes = max(self.max_block_bytes, block.num_bytes)

    def blocks_at_once(self, concurrency: int) -> int:
        """Of a worker that has so many lines in flight: twice as many blocks as hold them, as the
        last answers of a block leave the engine to others."""
        wanted = -(-2 * concurrency * len(self.blocks) // max(self.num_lines, 1))
        return max(2, min(wanted, _MAX_BLOCKS, _MAX_BYTES // self.max_block_bytes))
