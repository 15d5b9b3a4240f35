"""Snapshots at a seal: the parts of everybody whom the new records concern, brought forward from their last ones.

Everybody's as of the segment's end; of who did much, also some as of offsets within it, so that a look-up of a moment has
little to read between a snapshot and that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tallyroll.archive.reading import SegmentReader
from tallyroll.archive.segment import Layout
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Columns, IntColumn, Rows, TextColumn
from tallyroll.ports import ArchivedFinding, ArchiveIndex, ArchiveMark, Segment, StoredPart
from tallyroll.replay.columnar import ColumnarFold
from tallyroll.replay.fold import Fold, Part, View
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.projection import Projection
from tallyroll.replay.reading import owner_key
from tallyroll.replay.snapshots import is_sound, stored_part
from tallyroll.replay.unfolded import noted, unfolded

SNAPSHOT_EVERY: Final = 512  # events of one owner, about
_MOST_CUTS: Final = 64  # each piece is folded by itself, which costs something however little is in it

History = Callable[[], Iterable[Rows]]
"""Every first copy of the partition below the segment that is still there, in offset order."""


class SnapshotMaker:
    """Makes snapshots of a fold's views in one topic (base name). Made once for all partitions.

    An owner whose last snapshot is missing, damaged, or another reducer's gets the whole history folded; that is one pass
    over all segments for all such owners. Where its start was pruned, the snapshots that stand for it are gone on from; a
    reducer that has none there takes none. Not promised: speed then.
    """

    def __init__(self, fold: Fold, base: str, *, snapshot_every: int = SNAPSHOT_EVERY) -> None:
        self._fold = fold
        self._every = snapshot_every
        self._base = base
        self._views = {number: view for number, view in enumerate(fold.views) if base in view.topics}
        self._columnar = {number: ColumnarFold(fold, view.name) for number, view in self._views.items()}

    @cached_property
    def projection(self) -> Projection | None:
        """The columns that the views need; None where no view reads the topic."""
        return Projection(self._fold, self._base) if self._views else None

    def make(  # noqa: PLR0913  # the segment, and where to find what was before
        self,
        partition: TopicPartition,
        segment: Segment,
        layout: Layout,
        written: SegmentReader,
        index: ArchiveIndex,
        mark: ArchiveMark,
        history: History,
    ) -> tuple[Sequence[StoredPart], Sequence[str], Sequence[ArchivedFinding]]:
        """A snapshot of every part that the segment changed, for which reducers all of them are there, what they do not count.

        The segment is read as it was written: as columns if it has them, else as rows.
        """
        owners = self._owners(layout)
        parts = PartitionFold(self._fold, partition.topic, self._base, partition.partition) if self._views else None
        if parts is None:
            return (), (), ()
        before = {}
        found: list[ArchivedFinding] = []
        for number in self._views:
            owners[number] -= self._restore(parts, number, owners[number], partition, index, mark, history, found)
            before[number] = {owner: part.version for owner, part in parts.kept(number).items()}
        taken = self._forward(parts, partition, segment, layout, written, owners, before, found)
        complete: list[str] = []
        for number, view in self._views.items():
            reducer_id = self._fold.reducer_ids[view.name]
            changed = [part for part in parts.kept(number).values() if part.version > before[number].get(part.owner, 0)]
            # An upcaster may name an owner that the record does not; its past is not at hand, and no snapshot is taken.
            # Nor of one whose past was pruned and is not known to this reducer.
            known = [part for part in changed if part.owner in owners[number]]
            taken += _stored(view.name, partition, reducer_id, segment.next, known)
            if len(known) == len(changed) and (not mark.kept or reducer_id in mark.kept_for):
                complete.append(reducer_id)
        return taken, tuple(complete), found

    def _owners(self, layout: Layout) -> dict[int, set[str]]:
        """By view the owners that the records name."""
        agents, aggregates = set(layout.agents), set(layout.aggregates)
        owners = {}
        for number, view in self._views.items():
            prefix = f"{view.owner}:"
            if view.owner == "agent":
                owners[number] = agents - {""}
            elif view.owner == "aggregate":
                owners[number] = aggregates - {""}
            else:
                owners[number] = {key.removeprefix(prefix) for key in aggregates if key.startswith(prefix)}
        return owners

    def _forward(  # noqa: PLR0913  # as make
        self,
        parts: PartitionFold,
        partition: TopicPartition,
        segment: Segment,
        layout: Layout,
        written: SegmentReader,
        owners: Mapping[int, Collection[str]],
        before: Mapping[int, Mapping[str, int]],
        found: list[ArchivedFinding],
    ) -> list[StoredPart]:
        """Folds the segment; gives the snapshots that were taken on the way. What cannot be folded is not kept as columns."""
        taken: list[StoredPart] = []
        if self.projection is None or segment.projection != self.projection.id:
            for rows in written.rows(segment.base, segment.next):
                applied = parts.apply_rows(rows)
                for view in self._views.values():
                    found += unfolded(view, self._fold.reducer_ids[view.name], rows, applied.found)
            return taken
        columns, ids = written.columns(self.projection.columns), self._fold.reducer_ids
        versions = {number: dict(known) for number, known in before.items()}
        for piece, end in _cut(columns, -(-layout.busiest // self._every), segment.next):
            for number, columnar in self._columnar.items():
                if len(piece):
                    columnar.apply(piece, parts.kept(number))
                if end < segment.next:
                    grown = _grown(parts.kept(number), versions[number], owners[number], self._every // 2)
                    name = self._views[number].name
                    taken += _stored(name, partition, ids[name], end, grown)
        return taken

    def _restore(  # noqa: PLR0913  # as make
        self,
        parts: PartitionFold,
        number: int,
        owners: Collection[str],
        partition: TopicPartition,
        index: ArchiveIndex,
        mark: ArchiveMark,
        history: History,
        found: list[ArchivedFinding],
    ) -> set[str]:
        """Puts the owners' parts into place, as they were before the segment; gives the owners whose past nobody knows."""
        view = self._views[number]
        reducer_id = self._fold.reducer_ids[view.name]
        if mark.kept and reducer_id not in mark.kept_for:
            return set(owners)
        segments = index.segments()
        # Up to here a part may have changed without a snapshot of this reducer; behind it, no snapshot means no change.
        floor = max((segment.next for segment in segments if reducer_id not in segment.reducers), default=0)
        end = segments[-1].next if segments else 0
        kept = [one for one in index.parts(view.name, reducer_id, end=end, order_us=None, owners=owners) if one.end >= floor]
        sound = {one.owner: one for one in kept if is_sound(one)}
        for owner, one in sound.items():
            parts.restore(number, owner, one.part)
        unsure = {owner_key(view, owner): owner for owner in owners if owner not in sound}
        first = index.parts(view.name, reducer_id, end=mark.kept, order_us=None, owners=list(unsure.values())) if mark.kept else []
        lost = {one.owner for one in kept} - sound.keys()
        lost.update(unsure[key] for key in index.owners(list(unsure), floor))
        lost.update(one.owner for one in first)
        if not lost:
            return set()
        whole = PartitionFold(self._fold, partition.topic, self._base, partition.partition, view=number)
        for one in first:
            if is_sound(one):
                whole.restore(number, one.owner, one.part)
        keys = {owner_key(view, owner) for owner in lost}
        for rows in history():
            applied = whole.apply_rows(rows)
            found += [one for one in unfolded(view, reducer_id, rows, applied.found) if _is_of(one, view, keys)]
        made = whole.parts(number)
        for owner in lost:
            if owner in made and made[owner].version:
                parts.restore(number, owner, made[owner].dump())
        return {one.owner for one in first if not is_sound(one)}


def _is_of(found: ArchivedFinding, view: View, keys: Collection[str]) -> bool:
    note = noted(found)
    return note is not None and bool(note.owner) and owner_key(view, note.owner or "") in keys


def _cut(columns: Columns, count: int, end: int) -> Iterator[tuple[Columns, int]]:
    """Columns in so many pieces of equal length, or fewer, with where each ends."""
    count = min(_MOST_CUTS, count)
    if count <= 1:
        yield columns, end
        return
    offsets = np.sort(columns.offsets)
    bounds = [*np.unique(offsets[np.arange(1, count) * len(offsets) // count]).tolist(), end] if len(offsets) else [end]
    low = -1
    for bound in bounds:
        yield _piece(columns, (columns.offsets >= low) & (columns.offsets < bound)), bound
        low = bound


def _piece(columns: Columns, rows: NDArray[np.bool_]) -> Columns:
    def ints(column: IntColumn) -> IntColumn:
        return IntColumn(column.values[rows], column.valid[rows])

    def words(column: TextColumn) -> TextColumn:
        return TextColumn(column.codes[rows], column.words)

    values = {name: ints(one) if isinstance(one, IntColumn) else words(one) for name, one in columns.values.items()}
    return Columns(
        columns.topic, columns.partition, columns.offsets[rows], columns.times_us[rows], words(columns.types), words(columns.agents),
        words(columns.aggregates), values,
    )  # fmt: skip


def _grown(parts: Mapping[str, Part], versions: dict[str, int], known: Collection[str], least: int) -> list[Part]:
    """Those of whom enough has come since the last snapshot; notes that one is taken."""
    grown = [part for part in parts.values() if part.version - versions.get(part.owner, 0) >= least and part.owner in known]
    versions.update((part.owner, part.version) for part in grown)
    return grown


def _stored(view: str, partition: TopicPartition, reducer_id: str, end: int, parts: Iterable[Part]) -> Iterator[StoredPart]:
    for part in parts:
        yield stored_part(view, part.owner, partition, reducer_id, end, part.order_us, part.version, part.dump())
