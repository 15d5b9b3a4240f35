"""Many keys out of one seed, each of which can be destroyed alone: a puncturable tree of keys.

The construction of Goldreich, Goldwasser and Micali (1986): a node's two children are hashes of it under different labels, the
leaves are the keys. To destroy a key, the nodes above it are forgotten and the nodes beside that way are kept: every other key
can still be made, that one cannot. So a block of untouched keys takes 32 bytes to keep, whatever its size, and each destroyed
key takes at most log2(size) nodes more. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256

import msgspec

_LABELLED = tuple(
    sha256(label).copy for label in (b"tallyroll/block/0", b"tallyroll/block/1")
)  # copying a state costs half of what making one does


class KeyBlock(msgspec.Struct):
    """``size`` keys, a power of two; ``nodes`` by number: 1 is the root, 2n and 2n + 1 are the children of n."""

    size: int
    nodes: dict[int, bytes]

    @classmethod
    def of(cls, seed: bytes, count: int) -> KeyBlock:
        """A block that has ``count`` keys at least."""
        return cls(1 << max(0, count - 1).bit_length(), {1: seed})

    def keys(self, count: int) -> list[bytes]:
        """The first keys of a block in which none was destroyed."""
        level = [self.nodes[1]]
        while len(level) < self.size:
            level = [_child(node, side) for node in level for side in (0, 1)]
        return level[:count]

    def key(self, number: int) -> bytes | None:
        """One key; None where it was destroyed, or is none of the block."""
        above, leaf = self._above(number), self.size + number
        if above is None:
            return None
        found = self.nodes[leaf >> above]
        for depth in range(above - 1, -1, -1):
            found = _child(found, leaf >> depth & 1)
        return found

    def has(self, number: int) -> bool:
        """Whether that key can still be made; cheaper than making it."""
        return self._above(number) is not None

    def destroy(self, numbers: Collection[int]) -> list[int]:
        """Destroys these keys; returns those that were there."""
        return [number for number in numbers if self._puncture(number)]

    def _above(self, number: int) -> int | None:
        """How far above that key the node lies from which it is made; None where there is none."""
        if not 0 <= number < self.size:
            return None
        node, depth = self.size + number, 0
        while node and node not in self.nodes:
            node, depth = node >> 1, depth + 1
        return depth if node else None

    def _puncture(self, number: int) -> bool:
        above, leaf = self._above(number), self.size + number
        if above is None:
            return False
        node = self.nodes.pop(leaf >> above)
        for depth in range(above - 1, -1, -1):
            way = leaf >> depth
            self.nodes[way ^ 1] = _child(node, way & 1 ^ 1)
            node = _child(node, way & 1)
        return True


def _child(node: bytes, side: int) -> bytes:
    state = _LABELLED[side]()
    state.update(node)
    return state.digest()
