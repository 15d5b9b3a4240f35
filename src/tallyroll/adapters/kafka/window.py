"""What was read of one partition and is kept until everybody has it. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import attrgetter
from typing import Final

from tallyroll.events.batch import Batch

_RECORD_BYTES: Final = 1_000  # of memory beside the value: key, offset, and what followers have made of it
_end_of: Final = attrgetter("next_offset")


class Window:
    """Batches of one partition from ``start`` to ``end``, without a hole between them, as the log gave them.

    ``read`` is the number of the first look that may give something to it: what an earlier one gives was asked for by
    somebody else. ``size`` is an estimate, in bytes.
    """

    __slots__ = ("_batches", "_sizes", "end", "read", "size", "start")

    def __init__(self, start: int, read: int) -> None:
        self.start = self.end = start
        self.read = read
        self.size = 0
        self._batches: deque[Batch] = deque()
        self._sizes: deque[int] = deque()

    def add(self, batch: Batch) -> None:
        """Takes what lies behind ``end``."""
        fresh = batch.since(self.end)
        if fresh is not None:
            size = sum([len(value) for value in fresh.values if value is not None]) + len(fresh) * _RECORD_BYTES
            self._batches.append(fresh)
            self._sizes.append(size)
            self.size += size
            self.end = fresh.next_offset

    def at(self, position: int, most: int) -> Batch | None:
        """The batch at ``position``, or what is left of it, at most so many records; None where nothing is there yet, or no longer."""
        if not self.start <= position < self.end:
            return None
        found = self._batches[bisect_right(self._batches, position, key=_end_of)].since(position)
        if found is not None and len(found) > most:
            found = found.slice(0, most)
        return found

    def drop_to(self, position: int) -> None:
        """Forgets the batches that end at ``position`` or before."""
        while self._batches and self._batches[0].next_offset <= position:
            self.drop_first()

    def drop_first(self) -> None:
        """Forgets the oldest batch."""
        self.start = self._batches.popleft().next_offset
        self.size -= self._sizes.popleft()
