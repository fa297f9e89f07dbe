"""The logical KV blocks of a deployment and the promises made on them. A block is the same number on every node."""

from __future__ import annotations

from collections.abc import Sequence


class BlockPool:
    """Free blocks, reference counts of used ones, and how many free ones are promised to admitted sequences.

    Admission reserves: a sequence is admitted only when every block it can ever need (prompt and all tokens it may
    draw) is free and not promised to another. So a running sequence is never preempted and never waits for KV; the
    price is that sequences that end early held promises they did not use. Blocks themselves are taken one by one.
    """

    def __init__(self, blocks: int) -> None:
        self._free = list(range(blocks - 1, -1, -1))
        self._references = [0] * blocks
        self._promised = 0

    @property
    def used(self) -> int:
        """Blocks that hold tokens of some sequence."""
        return len(self._references) - len(self._free)

    @property
    def total(self) -> int:
        """All blocks."""
        return len(self._references)

    def promise(self, blocks: int) -> bool:
        """Set blocks aside; False, and nothing done, where too few are left."""
        if len(self._free) - self._promised < blocks:
            return False
        self._promised += blocks
        return True

    def unpromise(self, blocks: int) -> None:
        """Give back what was set aside and not taken."""
        self._promised -= blocks

    def take(self) -> int:
        """One of the promised blocks."""
        self._promised -= 1
        block = self._free.pop()
        self._references[block] = 1
        return block

    def share(self, blocks: Sequence[int]) -> None:
        """One more sequence reads these blocks."""
        for block in blocks:
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """A sequence forgets these blocks; those nobody else reads are free."""
        for block in blocks:
            self._references[block] -= 1
            if not self._references[block]:
                self._free.append(block)
