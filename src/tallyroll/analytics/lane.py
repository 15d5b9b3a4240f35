"""One partition in memory: its watermark, its open pairs, the panes that may still change, and what is not stored of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.admitted_keys import AdmittedKeys
from tallyroll.analytics.left_out import LeftOut
from tallyroll.analytics.moments import NEVER
from tallyroll.analytics.pairs import OpenPairs, PairChanges
from tallyroll.analytics.pane import Pane, dump_row, load_row
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.ports import PaneAt, PaneRow, WindowProgress, WindowWrite

_NO_WATERMARK: Final = -1

FUTURE_US: Final = 60_000_000
"""How far event time may lie ahead of the record's own time before it is put back."""


def clamp(times_us: NDArray[np.int64], timestamps_ms: NDArray[np.int64], now_us: int) -> tuple[NDArray[np.int64], int]:
    """Event times, those from the future put back, and how many of them there were.

    The future begins a minute after the record's timestamp, or after now where it has none or one that lies ahead of now.
    """
    reference = np.where(timestamps_ms >= 0, np.minimum(timestamps_ms * 1_000, now_us), now_us) + FUTURE_US
    ahead = times_us > reference
    count = int(ahead.sum())
    return (np.where(ahead, reference, times_us), count) if count else (times_us, 0)


class HeldRow:
    """A pane row in memory: where it is stored, and the panes by metric. ``dirty``: changed since the last store."""

    __slots__ = ("at", "bumped", "dirty", "panes", "revision")

    def __init__(self, at: PaneAt, revision: int = 0, panes: dict[str, Pane] | None = None) -> None:
        self.at = at
        self.revision = revision
        self.panes = {} if panes is None else panes
        self.dirty = False
        self.bumped = False

    def revise(self) -> None:
        """A late value came: one revision for each store that has any."""
        if not self.bumped:
            self.bumped = True
            self.revision += 1

    def take(self) -> Taken:
        """As it is to be stored; what changes it from here on is for the next store."""
        taken = Taken(self, self.bumped, (self.at, self.revision, dump_row(self.panes)))
        self.dirty = self.bumped = False
        return taken


def held_rows(wanted: Iterable[PaneAt], stored: Mapping[PaneAt, PaneRow]) -> list[HeldRow]:
    """Rows as the store has them, new ones where it has none: for ``Lane.hold``, which makes ``Lane.row`` give them."""
    return [HeldRow(at) if (row := stored.get(at)) is None else HeldRow(at, row.revision, load_row(row.data)) for at in wanted]


class Taken(NamedTuple):
    """A row on its way into the store; ``bumped`` as it was."""

    row: HeldRow
    bumped: bool
    stored: tuple[PaneAt, int, bytes]


class Progressed(NamedTuple):
    """How far a lane had come at one moment, and what belongs to that beside its rows."""

    progress: WindowProgress
    pairs: PairChanges
    admitted: Sequence[AdmittedKeys]
    left_out: bytes | None


Stretch = tuple[int, int]
"""Width and start of a pane, in seconds."""


class Lane:
    """The state of one partition.

    ``expected`` is the position in the store, None if it has none under these specs; ``next`` the position in memory.
    ``watermark_us`` is the largest event time. Rows that end at or before ``complete_s`` may be in the store without being
    here; every other row that was ever counted is in ``rows``, by stretch, then dimension and key. ``batches`` wait for the kernel.
    """

    __slots__ = (
        "_closed_s",
        "admitted",
        "batches",
        "complete_s",
        "dirty",
        "expected",
        "first",
        "left_out",
        "next",
        "number",
        "pairs",
        "partition",
        "repeats",
        "rows",
        "watermark_us",
    )

    def __init__(self, number: int, partition: TopicPartition, pairs: OpenPairs, admitted: Sequence[AdmittedKeys]) -> None:
        self.number = number
        self.partition = partition
        self.pairs = pairs
        self.admitted = admitted
        self.repeats = RepeatFilter()
        self.left_out = LeftOut()
        self.expected: int | None = None
        self.first: int | None = None
        self.next = 0
        self.watermark_us = NEVER
        self.complete_s: int | None = None
        self._closed_s = NEVER
        self.rows: dict[Stretch, dict[tuple[str, str], HeldRow]] = {}
        self.dirty: list[HeldRow] = []
        self.batches: list[Batch] = []

    def resume(self, progress: WindowProgress, recent: Iterable[PaneRow], complete_s: int) -> None:
        """Goes on from what the store has: the rows that end after ``complete_s``."""
        self.repeats = RepeatFilter.from_bytes(progress.repeats)
        self.expected = self.next = progress.next
        self.first, self.complete_s, self._closed_s = progress.first, complete_s, complete_s
        self.watermark_us = progress.watermark_us if progress.watermark_us != _NO_WATERMARK else NEVER
        self.hold(HeldRow(row.at, row.revision, load_row(row.data)) for row in recent)

    def hold(self, rows: Iterable[HeldRow]) -> None:
        """Puts rows into memory."""
        for row in rows:
            at = row.at
            self.rows.setdefault((at.width_s, at.start), {})[at.dimension, at.key] = row

    @property
    def held(self) -> int:
        """How many rows are in memory."""
        return sum(map(len, self.rows.values()))

    def find(self, at: PaneAt) -> HeldRow | None:
        """A row, if it is in memory."""
        return self.rows.get((at.width_s, at.start), {}).get((at.dimension, at.key))

    def advance(self, times_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """The largest event time at each record, these and earlier ones counted; remembers it."""
        watermarks = np.maximum.accumulate(times_us)
        if self.watermark_us > NEVER:
            watermarks = np.maximum(watermarks, self.watermark_us)
        self.watermark_us = int(watermarks[-1])
        return watermarks

    def row(self, dimension: str, key: str, width_s: int, start: int) -> HeldRow | None:
        """The row to count into, a new one if there was none; None if the store may have it and it has to be read first."""
        stretch = self.rows.get((width_s, start))
        row = None if stretch is None else stretch.get((dimension, key))
        if row is None:
            if self.complete_s is not None and start + width_s <= self.complete_s:
                return None
            row = HeldRow(PaneAt(dimension, key, width_s, start))
            if stretch is None:
                stretch = self.rows[width_s, start] = {}
            stretch[dimension, key] = row
        if not row.dirty:
            row.dirty = True
            self.dirty.append(row)
        return row

    def take_progress(self, spec_id: str) -> Progressed:
        """Everything but rows that is not stored yet. The rows that go with it are taken before any other values are put into rows."""
        watermark_us = self.watermark_us if self.watermark_us > NEVER else _NO_WATERMARK
        progress = WindowProgress(spec_id, self.first or 0, self.next, watermark_us, self.repeats.to_bytes())
        changed = [keys for keys in self.admitted if keys.changed]
        for keys in changed:
            keys.changed = False
        left_out = self.left_out.dump(spec_id) if self.left_out.changed else None
        self.left_out.changed = False
        return Progressed(progress, self.pairs.take_changes(), changed, left_out)

    def take_dirty(self) -> list[HeldRow]:
        """The rows that changed since the last call."""
        dirty, self.dirty = self.dirty, []
        return dirty

    def write(self, taken: Progressed, rows: Sequence[Taken]) -> WindowWrite:
        """What is taken, for the store."""
        return WindowWrite(
            self.partition, self.expected, taken.progress, [row.stored for row in rows], taken.pairs.opened, taken.pairs.closed
        )

    def stored(self, taken: Progressed) -> None:
        """What was taken is in the store."""
        self.expected = taken.progress.next

    def give_back(self, taken: Progressed, rows: Iterable[Taken]) -> None:
        """What was taken is not in the store, and is to be taken again."""
        self.pairs.give_back(taken.pairs)
        for keys in taken.admitted:
            keys.changed = True
        self.left_out.changed |= taken.left_out is not None
        for row, bumped, _ in rows:
            row.bumped |= bumped
            if not row.dirty:
                row.dirty = True
                self.dirty.append(row)

    def close_panes(self, end_s: int) -> int:
        """Up to where panes are closed now; how many rows closed since the last call."""
        before, self._closed_s = self._closed_s, max(end_s, self._closed_s)
        return sum(len(rows) for (width_s, start), rows in self.rows.items() if before < start + width_s <= end_s)

    def evict(self, end_s: int) -> None:
        """Forgets rows that end at or before that, but for changed ones; they are stored, and read again if need be."""
        self.complete_s = end_s = end_s if self.complete_s is None else max(end_s, self.complete_s)
        for stretch in [stretch for stretch in self.rows if sum(stretch) <= end_s]:
            changed = {which: row for which, row in self.rows[stretch].items() if row.dirty}
            if changed:
                self.rows[stretch] = changed
            else:
                del self.rows[stretch]
