"""Removal of what is older than its topic keeps: a whole prefix of a partition, a bounded piece at a time."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from tallyroll.adapters.sqlite.blocks import first_at
from tallyroll.adapters.sqlite.schema import OFFSET_BITS
from tallyroll.ports import Clock

_PIECE_BLOCKS: Final = 500  # deleted in one transaction; some 50 ms, for which appends wait
_INTERVAL_US: Final = 600 * 1_000_000  # as often as nobody will notice, seldom enough to cost nothing


class Removed(NamedTuple):
    """How many records a step removed, and whether there is more to do in that partition."""

    records: int
    more: bool


def remove_older(connection: sqlite3.Connection, number: int, cutoff_ms: int) -> Removed:
    """Removes records before the first one that is at or after the cut-off. Runs inside a writing transaction.

    A record with an old timestamp behind a younger one stays: offsets are only ever removed from the start.
    """
    start, end = connection.execute("SELECT first_offset, next_offset FROM partitions WHERE number = ?", (number,)).fetchone()
    keep = first_at(connection, number, start, end, cutoff_ms)
    if keep == start:
        return Removed(0, more=False)
    base = number << OFFSET_BITS
    limit = connection.execute(
        "SELECT position FROM blocks WHERE position BETWEEN ? AND ? ORDER BY position LIMIT 1 OFFSET ?", (base, base | keep, _PIECE_BLOCKS)
    ).fetchone()
    more = limit is not None and limit[0] < base | keep
    target = limit[0] - base if more else keep
    # The block that holds the first record to keep stays whole on disk; readers start behind what is removed.
    connection.execute(
        "DELETE FROM blocks WHERE position >= ? AND position < ? AND position + count <= ?", (base, base | target, base | target)
    )
    connection.execute("UPDATE partitions SET first_offset = ? WHERE number = ?", (target, number))
    return Removed(target - start, more)


class Retention:
    """What the writer does now and then by itself: all partitions at the start, and again every ten minutes of the clock."""

    def __init__(self, retention_ms: Mapping[int, int], clock: Clock) -> None:
        self._retention_ms = retention_ms
        self._clock = clock
        self._todo: deque[int] = deque()
        self._next_us = 0

    def cutoff_ms(self, number: int) -> int:
        """Records of the partition before this moment may go."""
        return self._clock.now_us() // 1_000 - self._retention_ms[number]

    def due(self) -> bool:
        """Whether a step is to be made."""
        now_us = self._clock.now_us()
        if now_us >= self._next_us:
            self._next_us = now_us + _INTERVAL_US
            self._todo = deque(self._retention_ms)
        return bool(self._todo)

    def step(self, connection: sqlite3.Connection) -> None:
        """One bounded piece. Runs inside a writing transaction."""
        number = self._todo.popleft()
        if remove_older(connection, number, self.cutoff_ms(number)).more:
            self._todo.appendleft(number)
