"""Snapshots at a seal: the parts of everybody whom the new records concern, brought forward from their last ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from tallyroll.archive.records import RowsBuilder
from tallyroll.events.codec import Head
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Rows
from tallyroll.ports import ArchiveIndex, Judged, StoredPart
from tallyroll.replay.fold import Fold
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.reading import owner_key
from tallyroll.replay.snapshots import is_sound, stored_part

_FOLD_ROWS: Final = 4_096  # folded at a time: their payloads are copies

History = Callable[[], Iterable[Rows]]
"""Every first copy of the partition below the segment, in offset order."""


class Forward:
    """The fold of one seal: ``prepare``, ``add`` every first copy, ``take`` the snapshots.

    An owner whose last snapshot is missing, damaged, or another reducer's gets the whole history folded; that is one pass
    over all segments for all such owners. Not promised: speed then.
    """

    def __init__(self, fold: Fold, base: str, partition: TopicPartition, index: ArchiveIndex, history: History) -> None:
        self._fold = fold
        self._base = base
        self._partition = partition
        self._index = index
        self._history = history
        self._views = [(number, view) for number, view in enumerate(fold.views) if base in view.topics]
        self._parts = PartitionFold(fold, partition.topic, base, partition.partition) if self._views else None
        self._rows = RowsBuilder(partition)
        self._known: dict[int, set[str]] = {}

    def prepare(self, records: Iterable[Judged]) -> None:
        """Puts the last parts of all owners that these records may concern into place."""
        if self._parts is None:
            return
        agents: set[str] = set()
        aggregates: set[str] = set()
        for record in records:
            if record.verdict == "first":
                agents.add(record.agent or "")
                aggregates.add(record.aggregate or "")
        for number, view in self._views:
            prefix = f"{view.owner}:"
            if view.owner == "agent":
                owners = agents - {""}
            elif view.owner == "aggregate":
                owners = aggregates - {""}
            else:
                owners = {key.removeprefix(prefix) for key in aggregates if key.startswith(prefix)}
            self._known[number] = owners
            self._restore(self._parts, number, owners)

    def add(self, record: Judged, head: Head) -> None:
        """Folds a first copy of the segment; they come in offset order."""
        if self._parts is not None:
            self._rows.add(record, head)
            if len(self._rows) >= _FOLD_ROWS:
                self._apply(self._parts)

    def take(self, end: int) -> tuple[Sequence[StoredPart], Sequence[str]]:
        """A snapshot at ``end`` of every part that changed, and the ids of the reducers for which all of them are there."""
        if self._parts is None:
            return (), ()
        self._apply(self._parts)
        ids = {number: self._fold.reducer_ids[view.name] for number, view in self._views}
        taken, complete = [], dict(ids)
        for part in self._parts.take_dirty():
            if part.owner in self._known[part.view]:
                name, reducer_id = self._fold.views[part.view].name, ids[part.view]
                taken.append(stored_part(name, part.owner, self._partition, reducer_id, end, part.order_us, part.version, part.dump()))
            else:
                complete.pop(part.view, None)  # an upcaster named an owner that the record does not: its past is not at hand
        return taken, tuple(complete.values())

    def _apply(self, parts: PartitionFold) -> None:
        rows = self._rows.take()
        if rows is not None:
            parts.apply_rows(rows)

    def _restore(self, parts: PartitionFold, number: int, owners: Collection[str]) -> None:
        view = self._fold.views[number]
        reducer_id = self._fold.reducer_ids[view.name]
        segments = self._index.segments()
        # Up to here a part may have changed without a snapshot of this reducer; behind it, no snapshot means no change.
        floor = max((segment.next for segment in segments if reducer_id not in segment.reducers), default=0)
        end = segments[-1].next if segments else 0
        kept = [one for one in self._index.parts(view.name, reducer_id, end=end, order_us=None, owners=owners) if one.end >= floor]
        sound = {one.owner: one for one in kept if is_sound(one)}
        for owner, one in sound.items():
            parts.restore(number, owner, one.part)
        unsure = {owner_key(view, owner): owner for owner in owners if owner not in sound}
        lost = {one.owner for one in kept} - sound.keys()
        lost.update(unsure[key] for key in self._index.owners(list(unsure), floor))
        if lost:
            self._refold(parts, number, lost)

    def _refold(self, parts: PartitionFold, number: int, lost: Collection[str]) -> None:
        whole = PartitionFold(self._fold, self._partition.topic, self._base, self._partition.partition, view=number)
        for rows in self._history():
            whole.apply_rows(rows)
        made = whole.parts(number)
        for owner in lost:
            if owner in made and made[owner].version:
                parts.restore(number, owner, made[owner].dump())
