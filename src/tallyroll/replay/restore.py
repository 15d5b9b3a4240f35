"""A lost state store made anew from the archive and the log, and shown to be what it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace

from tallyroll.errors import PositionConflict, SnapshotMismatch, SpanGone
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.ports import Archive, PartitionWrite, Progress, Span, StateStore
from tallyroll.replay.fold import State, View, states_hash
from tallyroll.replay.jobs import turn
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.plan import AsOfOffsets, Coverage, Extent, PartitionPlan, Plan, ReplayMode, plan
from tallyroll.replay.policy import Policy
from tallyroll.replay.reading import boundary
from tallyroll.replay.replayer import Ask, Replayer
from tallyroll.replay.snapshots import is_sound
from tallyroll.replay.state import stored_owners, stored_state


@dataclass(slots=True)
class Restored:
    """What was written: per partition the next offset, how many parts and how many of them straight from snapshots."""

    as_of: dict[TopicPartition, int] = field(default_factory=dict)
    parts: int = 0
    snapshots: int = 0
    records: int = 0


async def restore(
    replayer: Replayer, store: StateStore, restored: Restored, *, allow_truncated: bool = False
) -> AsyncGenerator[tuple[int, int], None]:
    """Fills an empty store, a partition at a time, each in one transaction; gives how many of how many offsets are done.

    A crash leaves whole partitions; remove the store then, and begin anew. Raises PositionConflict for a store that has
    something already, SpanGone where a part of the history is gone, unless ``allow_truncated``; as log, archive and store do.
    """
    fold = replayer.fold
    topics = [replayer.catalogue[base].name for base in fold.topics]
    extents = await replayer.extents(topics)
    planned = _planned(replayer, extents)
    if planned.missing and not allow_truncated:
        raise planned.gone(extents)
    stored = await store.load_progress()
    done = 0
    for one in planned.partitions:
        known = stored.get(one.partition)
        if known is not None and known.fold_id == fold.fold_id and known.next:
            raise PositionConflict(str(one.partition), stored=known.next, expected=None)
        made = _Made(replayer, one)
        if replayer.archive is not None:
            await asyncio.to_thread(made.from_archive, replayer.archive)
        if one.log[0] < one.log[1]:
            async for batch in replayer.log.read([Span(*one.partition, *one.log)]):
                made.fold.apply(batch)
                restored.records += len(batch)
                await turn()
        write = made.write(first=one.missing[-1][1] if one.missing else 0)
        await store.commit([write])
        restored.as_of[one.partition] = one.end
        restored.parts += len(write.parts)
        restored.snapshots += made.snapshots
        restored.records += made.rows
        done += one.records
        yield done, planned.records


async def archived(replayer: Replayer, partition: TopicPartition) -> tuple[PartitionFold, int, int] | None:
    """The fold of what the archive has of a partition from its start, and the offsets it goes from and to; None: nothing.

    Spans that nobody has any more are passed over, and the first offset is then the one behind them.
    """
    if replayer.archive is None:
        return None
    mark = (await asyncio.to_thread(replayer.archive.marks, [partition])).get(partition)
    if mark is None or not mark.next:
        return None
    planned = _planned(replayer, {partition: Extent(mark, mark.next, mark.next)})
    one = planned.partitions[0]
    made = _Made(replayer, one)
    await asyncio.to_thread(made.from_archive, replayer.archive)
    return made.fold, one.missing[-1][1] if one.missing else 0, one.end


def _planned(replayer: Replayer, extents: Mapping[TopicPartition, Extent]) -> Plan:
    """What was pruned is made of snapshots where every view of the topic has them."""
    fold, plans = replayer.fold, list[PartitionPlan]()
    for base in fold.topics:
        reducers = [fold.reducer_ids[view.name] for view in fold.views if base in view.topics]
        of_topic = {one: extent for one, extent in extents.items() if one.topic == replayer.catalogue[base].name}
        plans += plan(of_topic, reducers=reducers).partitions
    return Plan(sorted(plans, key=lambda one: one.partition))


class _Made:
    """One partition's parts of every view, from snapshots and archived rows."""

    def __init__(self, replayer: Replayer, planned: PartitionPlan) -> None:
        topic = replayer.catalogue.named(planned.partition.topic)
        assert topic is not None  # noqa: S101  # plans are made from the catalogue
        self.fold = PartitionFold(replayer.fold, *(planned.partition.topic, topic.base, planned.partition.partition))
        self.snapshots = self.rows = 0
        self._views = replayer.fold
        self._plan = planned

    def from_archive(self, archive: Archive) -> None:
        """Blocks. Snapshots are taken only if every one of them is sound; else everything is folded anew.

        Raises SnapshotMismatch where it cannot be, since what they stand for was pruned.
        """
        start, end = self._plan.archive
        base = self._from_snapshots(archive, start, end)
        for rows in archive.rows(self._plan.partition, base, end):
            self.fold.apply_rows(rows)
            self.rows += len(rows)
        self.fold.repeats = RepeatFilter.from_bytes(self._plan.repeats)

    def _from_snapshots(self, archive: Archive, start: int, end: int) -> int:
        segments, partition = archive.segments(self._plan.partition), self._plan.partition
        ids = self._views.reducer_ids
        views = [view for view in self._views.views if self.fold.base in view.topics]
        base, pruned = min((boundary(segments, start, end, None, ids[view.name]) for view in views), default=start), self._plan.pruned
        kept = [one for view in views for one in archive.parts(partition, view.name, ids[view.name], end=base) if base > start or pruned]
        for one in kept:
            if is_sound(one):
                continue
            if pruned:
                raise SnapshotMismatch(f"{one.view} at {partition}/{one.end}", "it is damaged, and the events before it are pruned")
            return start
        for one in kept:
            self.fold.restore(self._views.index(one.view), one.owner, one.part)
        self.snapshots = len(kept)
        return base

    def write(self, *, first: int) -> PartitionWrite:
        """What the store is to hold."""
        parts = [
            (view.name, owner, part.dump())
            for number, view in enumerate(self._views.views)
            for owner, part in self.fold.parts(number).items()
            if part.version
        ]
        progress = Progress(self._views.fold_id, first, self._plan.end, self.fold.repeats.to_bytes())
        return PartitionWrite(self._plan.partition, None, progress, parts)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a store holds, in a form to keep and to compare: per view how many owners and one hash, as of an offset vector.

    ``coverage``: of the replay that made it; a store's is not known to be less than complete.
    """

    as_of: Mapping[str, int]
    views: Mapping[str, tuple[int, str]]
    coverage: Coverage = "complete"


async def fingerprint(replayer: Replayer, store: StateStore) -> Fingerprint:
    """The fingerprint of a store as it is now, whoever writes meanwhile."""
    fold, views = replayer.fold, {}
    async with store.at_one_moment() as now:
        progress = {str(at): one.next for at, one in (await now.load_progress()).items() if one.fold_id == fold.fold_id}
        for view in fold.views:
            states = await stored_states(now, replayer, view)
            views[view.name] = (len(states), states_hash(states))
    return Fingerprint(dict(sorted(progress.items())), views)


async def replayed_fingerprint(replayer: Replayer, as_of: Mapping[TopicPartition, int]) -> Fingerprint:
    """The fingerprint that a full replay, without snapshots, comes to at an offset vector.

    Where the archive was pruned, a replay from the snapshots that stand for it; the coverage says so.
    """
    views: dict[str, tuple[int, str]] = {}
    coverage: Coverage = "complete"
    for view in replayer.fold.views:
        topics = {replayer.catalogue[base].name for base in view.topics}
        ends = {partition: end for partition, end in as_of.items() if partition.topic in topics}
        ask = Ask(view, target=AsOfOffsets(ends), validate="off", policy=_AS_LIVE)
        try:
            found = await replayer.replay(ask)
        except SpanGone as gone:
            if not gone.pruned:
                raise
            found = await replayer.replay(replace(ask, mode=ReplayMode.POINT_IN_TIME))
            coverage = found.coverage
        views[view.name] = (len(found.states), states_hash(found.states))
    return Fingerprint({str(partition): end for partition, end in sorted(as_of.items())}, views, coverage)


# What a fold cannot read is put aside in the live store as well.
_AS_LIVE = Policy().but(unknown_schema="warn")


async def stored_states(store: StateStore, replayer: Replayer, view: View) -> dict[str, State]:
    """Every state of a view in a store."""
    states: dict[str, State] = {}
    after = ""
    while owners := await stored_owners(store, view, after=after, limit=1_000, fold=replayer.fold):
        for owner in owners:
            found = await stored_state(store, view, owner, fold=replayer.fold)
            if found is not None:
                states[owner] = found.state
        after = owners[-1]
    return states
