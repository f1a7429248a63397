"""Which block of the key-value cache belongs to whom.

A block holds the keys and values of block_size tokens. It is in one of three places:

    free       nobody's, contents meaningless
    in use     in the block tables of one or more sequences
    cached     in nobody's table, but complete and named by a hash: a later sequence with the same
               beginning takes it over; until then it is evicted, oldest first, when free runs out

At any time free + in use + cached == total.
"""

import hashlib
import struct
from collections import OrderedDict, deque

from .sequence import Sequence


class BlockManager:
    """Counts, shares and names blocks. Pure Python, knows no tensors."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._prefix_cache = prefix_cache
        self._free = deque(range(num_blocks))
        self._num_users = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks that can be handed out now, some of them by evicting."""
        return len(self._free) + len(self._cached)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def take_prefix(self, sequence: Sequence) -> None:
        """Put the cached blocks of the sequence's beginning in its (empty) block table.

        Never covers the last token: its logits are wanted. Sets num_computed.
        """
        if not self._prefix_cache:
            return
        reusable = (len(sequence.token_ids) - 1) // self.block_size
        for index in range(reusable):
            block_hash = self._hash(sequence, index)
            block = self._block_of.get(block_hash)
            if block is None:
                break
            sequence.block_hashes.append(block_hash)
            sequence.block_table.append(block)
            self._num_users[block] += 1
            self._cached.pop(block, None)
        sequence.num_computed = len(sequence.block_table) * self.block_size

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give the sequence blocks for its first num_tokens tokens; False if there are too few."""
        wanted = self.num_blocks_for(num_tokens) - len(sequence.block_table)
        if wanted > self.num_available:
            return False
        for _ in range(wanted):
            sequence.block_table.append(self._take_block())
        return True

    def name_complete_blocks(self, sequence: Sequence) -> None:
        """Make the blocks that the sequence has filled since the last call reusable."""
        if not self._prefix_cache:
            return
        for index in range(len(sequence.block_hashes), sequence.num_computed // self.block_size):
            block_hash, block = self._hash(sequence, index), sequence.block_table[index]
            sequence.block_hashes.append(block_hash)
            # Two sequences may have computed the same block side by side; one of them is enough.
            if block_hash not in self._block_of:
                self._block_of[block_hash] = block
                self._hash_of[block] = block_hash

    def release(self, sequence: Sequence) -> None:
        """Take all blocks from the sequence; named ones stay cached. Doing it twice is harmless."""
        # From the end, so that of one sequence's blocks the later ones are evicted first.
        for block in reversed(sequence.block_table):
            self._num_users[block] -= 1
            if self._num_users[block] == 0:
                if self._hash_of[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None
        sequence.block_table.clear()
        sequence.block_hashes.clear()
        sequence.table_version += 1
        sequence.num_computed = 0

    def forget(self, sequence: Sequence) -> None:
        """Take the names from the sequence's blocks: nobody shall reuse what is in them."""
        for block in sequence.block_table:
            block_hash = self._hash_of[block]
            if block_hash is not None:
                del self._block_of[block_hash]
                self._hash_of[block] = None

    def reset(self) -> None:
        """Forget every name; cached blocks become free. Blocks in use keep their users."""
        self._block_of.clear()
        self._hash_of = [None] * self.num_blocks
        self._free.extend(self._cached)
        self._cached.clear()

    def _take_block(self) -> int:
        if self._free:
            block = self._free.popleft()
        else:
            block, _ = self._cached.popitem(last=False)
            block_hash = self._hash_of[block]
            assert block_hash is not None
            del self._block_of[block_hash]
            self._hash_of[block] = None
        self._num_users[block] = 1
        return block

    def _hash(self, sequence: Sequence, index: int) -> bytes:
        """The name of the sequence's block: everything that its keys and values depend on."""
        start, end = index * self.block_size, (index + 1) * self.block_size
        parent = sequence.block_hashes[index - 1] if index else b"root" + sequence.salt
        digest = hashlib.sha256(parent)
        digest.update(b"long" if sequence.long_rope else b"short")
        digest.update(struct.pack(f"<{self.block_size}i", *sequence.token_ids[start:end]))
        for span in sequence.images:
            if span.start < end and span.end > start:
                digest.update(struct.pack("<i", span.start - start) + span.picture.digest)
        return digest.digest()
