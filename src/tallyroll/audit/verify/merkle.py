"""RFC 6962 as a verifier needs it: roots as leaves come in, and proofs of consistency."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

EMPTY: Final = sha256(b"").digest()


class Growing:
    """A tree that grows from what its peaks stand for; knows its root at every size it has."""

    def __init__(self, size: int, peaks: Sequence[bytes]) -> None:
        self.size = size
        self._stack: list[tuple[int, bytes]] = []  # (height, hash), the highest first
        remaining = list(peaks)
        for height in range(size.bit_length() - 1, -1, -1):
            if size >> height & 1:
                self._stack.append((height, remaining.pop(0)))

    def extend(self, leaves: list[bytes]) -> None:
        """Appends leaf hashes: whole levels at a time."""
        stack, level, height, number = self._stack, leaves, 0, self.size
        kept: list[tuple[int, bytes]] = []
        self.size += len(leaves)
        while level:
            if number & 1:
                level = [stack.pop()[1], *level]
            if len(level) & 1:
                kept.append((height, level[-1]))
            two = iter(level)
            level = [sha256(b"\x01" + left + right).digest() for left, right in zip(two, two, strict=False)]
            number, height = number >> 1, height + 1
        stack += reversed(kept)

    def root(self) -> bytes:
        """The root of what is there now."""
        if not self._stack:
            return EMPTY
        found = self._stack[-1][1]
        for _, peak in reversed(self._stack[:-1]):
            found = sha256(b"\x01" + peak + found).digest()
        return found


def begins(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the path proves that the tree of ``old`` leaves is the beginning of the one of ``new``. RFC 9162, 2.1.4.2."""
    if not 0 < old < new or not path:
        return False
    rest = list(path)
    if old & (old - 1) == 0:
        rest.insert(0, old_root)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = rest[0]
    for sibling in rest[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = sha256(b"\x01" + sibling + fr).digest(), sha256(b"\x01" + sibling + sr).digest()
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = sha256(b"\x01" + sr + sibling).digest()
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == old_root and sr == new_root


def root_over(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that an inclusion proof leads to, None for a path of the wrong length. RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        return None
    found, number, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            return None
        if number & 1 or number == last:
            found = sha256(b"\x01" + sibling + found).digest()
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            found = sha256(b"\x01" + found + sibling).digest()
        number, last = number >> 1, last >> 1
    return found if last == 0 else None
