"""The Merkle tree of RFC 6962: roots, proofs of inclusion and of consistency, and the compact range that a writer keeps.

Leaves come in as hashes (``audit.ledger.layout.leaf_hash``). A node is named by (height, number): it covers the leaves from
``number << height`` on, ``1 << height`` of them. Nodes live wherever ``Nodes`` gets them from: a list, a table in a store.
Pure: no clock, no randomness, no I/O.

Not promised: proofs about leaves whose nodes were removed; make those before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final

from tallyroll.audit import compiled

EMPTY_ROOT: Final = sha256(b"").digest()
_new_node: Final = sha256(b"\1").copy

Nodes = Callable[[int, int], bytes]
"""The hash of the complete node (height, number); raises LookupError for one that is not kept."""


def node_hash(left: bytes, right: bytes) -> bytes:
    """The parent of two nodes."""
    state = _new_node()
    state.update(left + right)
    return state.digest()


def parents(nodes: Sequence[bytes]) -> list[bytes]:
    """``node_hash`` of each two of some nodes that stand beside each other; a last one without a right one has no parent yet.

    By the compiled core where it is installed.
    """
    made = compiled.parents(nodes)
    if made is None:
        pairs = iter(nodes)
        made = [sha256(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
    return made


class CompactRange:
    """A tree of which only the peaks are kept: at most log2(size) hashes, enough to append and to know the root.

    ``start`` and ``peaks`` go on from a tree that exists. Appending is cheapest in batches: one hash a leaf, no loop a leaf.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        heights = [height for height in range(size.bit_length() - 1, -1, -1) if size >> height & 1]
        if len(heights) != len(peaks):
            raise ValueError(f"a tree of {size} leaves has {len(heights)} peaks, not {len(peaks)}")
        self.size = size
        self._peaks: dict[int, bytes] = dict(zip(heights, peaks, strict=True))

    @property
    def peaks(self) -> list[bytes]:
        """The largest first, as they are written down."""
        return [self._peaks[height] for height in sorted(self._peaks, reverse=True)]

    def extend(self, leaves: Sequence[bytes]) -> list[tuple[int, int, Sequence[bytes]]]:
        """Appends the leaves. Returns the nodes that became complete as (height, first number, hashes), leaves included."""
        made: list[tuple[int, int, Sequence[bytes]]] = []
        level: Sequence[bytes] = leaves
        first, height, peaks = self.size, 0, self._peaks
        self.size += len(leaves)
        while level:
            made.append((height, first, level))
            if first & 1:  # the node before the first is a peak that waits for its sibling
                level = [peaks.pop(height), *level]
                first -= 1
            if len(level) & 1:
                peaks[height] = level[-1]
            level = parents(level)
            first >>= 1
            height += 1
        return made

    def root(self) -> bytes:
        """The root of everything appended."""
        found: bytes | None = None
        for height in sorted(self._peaks):
            found = self._peaks[height] if found is None else node_hash(self._peaks[height], found)
        return EMPTY_ROOT if found is None else found


class Tree:
    """A whole tree in memory: every node, so that it can prove. For tests and small ledgers; 130 bytes a leaf."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._range = CompactRange()
        self._levels: list[list[bytes]] = []
        self.extend(list(leaves))

    @property
    def size(self) -> int:
        """How many leaves."""
        return self._range.size

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Appends leaves."""
        for height, _, hashes in self._range.extend(leaves):
            if height == len(self._levels):
                self._levels.append([])
            self._levels[height].extend(hashes)

    def node(self, height: int, number: int) -> bytes:
        """As ``Nodes``."""
        return self._levels[height][number]

    def root(self, size: int | None = None) -> bytes:
        """The root of the first ``size`` leaves, of all by default."""
        return self._range.root() if size is None else root(size, self.node)

    def peaks(self, size: int) -> list[bytes]:
        """The peaks of the first ``size`` leaves."""
        return peaks(size, self.node)


def peak_places(size: int) -> list[tuple[int, int]]:
    """Where the complete nodes are that a tree of ``size`` leaves begins with, as (height, number), the largest first."""
    found, start = [], 0
    for height in range(size.bit_length() - 1, -1, -1):
        if size >> height & 1:
            found.append((height, start >> height))
            start += 1 << height
    return found


def peaks(size: int, nodes: Nodes) -> list[bytes]:
    """The nodes that stand for the first ``size`` leaves, the largest first."""
    return [nodes(height, number) for height, number in peak_places(size)]


def root(size: int, nodes: Nodes) -> bytes:
    """The root of the first ``size`` leaves."""
    return _span(0, size, nodes) if size else EMPTY_ROOT


def inclusion(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """The audit path of RFC 6962 section 2.1.1. Raises ValueError for an index that is not below the size."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_span(middle, end, nodes))
            end = middle
        else:
            path.append(_span(start, middle, nodes))
            start = middle
    return path[::-1]


def consistency(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """The proof of RFC 6962 section 2.1.2 that the first ``old`` leaves begin the tree of ``new``; empty for 0 and for equal sizes."""
    if not 0 <= old <= new:
        raise ValueError(f"{old} is not a size before {new}")
    if old in (0, new):
        return []
    path, start, end, whole = [], 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_span(middle, end, nodes))
            end = middle
        else:
            path.append(_span(start, middle, nodes))
            start, whole = middle, False
    if not whole:
        path.append(_span(start, end, nodes))
    return path[::-1]


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that the path leads to; None for a path of the wrong length."""
    if not 0 <= index < size:
        return None
    found, number, last = leaf, index, size - 1
    for sibling in path:
        if not last:
            return None
        if number & 1 or number == last:
            found = node_hash(sibling, found)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        number, last = number >> 1, last >> 1
    return None if last else found


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the path proves that the tree (old, old_root) begins the tree (new, new_root)."""
    if old in (0, new) or old > new:
        return not path and (old_root == (EMPTY_ROOT if not old else new_root)) and old <= new
    nodes = iter([old_root, *path] if not old & (old - 1) else path)
    number, last = old - 1, new - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    begin = next(nodes, None)
    if begin is None:
        return False
    left = right = begin
    for sibling in nodes:
        if not last:
            return False
        if number & 1 or number == last:
            left, right = node_hash(sibling, left), node_hash(sibling, right)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            right = node_hash(right, sibling)
        number, last = number >> 1, last >> 1
    return not last and left == old_root and right == new_root


def _split(count: int) -> int:
    """The largest power of two below the count."""
    return 1 << (count - 1).bit_length() - 1


def _span(start: int, end: int, nodes: Nodes) -> bytes:
    count = end - start
    if not count & (count - 1):  # starts are multiples of it, by the way the spans are split
        height = count.bit_length() - 1
        return nodes(height, start >> height)
    middle = start + _split(count)
    return node_hash(_span(start, middle, nodes), _span(middle, end, nodes))
