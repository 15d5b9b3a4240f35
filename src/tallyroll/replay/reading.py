"""A plan carried out: snapshots, archive and log of each partition, folded into parts.

Archive first (blocking, in a worker thread), then the batches of the log as they come; what a ``Reading`` made leaves it as parts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tallyroll.errors import ReplayCancelled, SnapshotMismatch, Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.chain import ChainChecker
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.rows import Rows
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Archive, Segment, StoredPart
from tallyroll.replay.applied import Applied, Cut
from tallyroll.replay.findings import Finding, Findings, SequenceCheck
from tallyroll.replay.fold import Fold, Part, View
from tallyroll.replay.judge import Judge
from tallyroll.replay.memory import keep_freed_memory
from tallyroll.replay.partition import PartitionFold, no_collecting
from tallyroll.replay.plan import PartitionPlan, Plan, ReplayFilter
from tallyroll.replay.policy import Policy, Validation
from tallyroll.replay.selection import Selection, merge_rows
from tallyroll.replay.snapshots import is_sound
from tallyroll.replay.unfolded import Below, aggregate_of, finding_of, is_anothers

_MAX_LOOKUPS: Final = 1_000  # of owners in one partition; more are found faster by reading everything
_CHAIN_KINDS: Final = {"gap": "session_gap", "altered": "altered", "reordered": "reordered"}


@dataclass(frozen=True, slots=True)
class Task:
    """What to make of a plan: one view's states, of one owner or of all, and how to go about it.

    ``cut``: event time at which counting stops. ``from_snapshots``: start from the newest that are valid. ``columnar``: fold
    segments as columns where they have the right ones.
    """

    view: View
    owner: str | None = None
    cut: Cut | None = None
    selection: ReplayFilter | None = None
    from_snapshots: bool = False
    columnar: bool = False
    validate: Validation = "sequence"
    policy: Policy = field(default_factory=Policy)


def owner_key(view: View, owner: str) -> str:
    """An owner of a view as the archive's locator writes it: ``@agent``, or the aggregate's ``type:id``."""
    if view.owner == "agent":
        return f"@{owner}"
    return owner if view.owner == "aggregate" else f"{view.owner}:{owner}"


@dataclass(slots=True)
class Tally:
    """What was read: how many snapshots were taken over, and how many records came from where.

    ``folded`` counted for a state; ``skipped`` did not pass the filter; ``columns`` of the archived ones were folded as columns.
    """

    snapshots: int = 0
    archived: int = 0
    columns: int = 0
    logged: int = 0
    folded: int = 0
    skipped: int = 0

    def add(self, other: Tally) -> None:
        """Adds what another process read."""
        for name in ("snapshots", "archived", "columns", "logged", "folded", "skipped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class _Lane:
    """One partition under way."""

    plan: PartitionPlan
    fold: PartitionFold
    sequences: SequenceCheck | None
    chain: ChainChecker | None
    judge: Judge | None
    at: int = 0

    @property
    def partition(self) -> TopicPartition:
        return self.plan.partition


class Reading:
    """One plan, carried out once: ``from_archive``, then ``apply`` for every batch of ``spans`` of the log, then ``close``.

    ``done`` of ``total`` offsets are dealt with; both may be read from another thread. Raises what the policy says.
    Not promised: bounded memory; it grows with the owners that are asked for, not with their events.
    """

    def __init__(self, fold: Fold, catalogue: Catalogue, task: Task, plan: Plan) -> None:
        self.task = task
        self.findings = Findings()
        self.tally = Tally()
        self.total = plan.records
        self.done = 0
        self._fold = fold
        self._view = fold.index(task.view.name)
        self._reducer_id = fold.reducer_ids[task.view.name]
        self._selection = Selection(task.selection) if task.selection is not None else None
        self._stop = threading.Event()
        self._lanes = {one.partition: self._lane(one, catalogue) for one in plan.partitions}

    def cancel(self) -> None:
        """Makes whatever is under way raise ReplayCancelled at its next step; from any thread."""
        self._stop.set()

    def parts(self) -> Iterator[tuple[TopicPartition, str, Part]]:
        """Every part that an event has changed: where it lies, whose it is."""
        for partition, lane in self._lanes.items():
            for owner, part in lane.fold.kept(self._view).items():
                if part.version:
                    yield partition, owner, part

    @property
    def passed_us(self) -> int:
        """The latest event time of what was read, as far as it lies behind the cut or in the archive."""
        return max((max(lane.fold.peak_us, lane.plan.last_us or 0) for lane in self._lanes.values()), default=0)

    # The archive

    def from_archive(self, archive: Archive) -> None:
        """Everything of the plan that the archive has. Blocks; call it from a worker thread."""
        keep_freed_memory()
        with no_collecting():
            for lane in self._lanes.values():
                start, end = lane.plan.archive
                if self.task.validate == "chain":
                    self._recheck(archive, lane, start, end)
                else:
                    self._from_archive(archive, lane, start, end)

    def _from_archive(self, archive: Archive, lane: _Lane, start: int, end: int) -> None:
        task, partition = self.task, lane.partition
        base = self._from_snapshots(archive, lane, start, end) if task.from_snapshots or lane.plan.pruned else start
        if base < end:
            keys, until_us = self._keys, task.cut.until_us if task.cut is not None else None
            if keys is not None:
                looked_up = [archive.owner_rows(partition, key, base, end, until_us=until_us, whole=self._whole) for key in keys]
                some = [rows for rows in looked_up if rows is not None]
                self._fold_rows(lane, merge_rows(some) if some else None, owned=task.owner is not None)
            elif task.columnar and self._selection is None:
                self._fold_segments(archive, lane, base, end, until_us)
            else:
                self._fold_span(archive, lane, base, end, until_us)
        self._reach(lane, end)
        if start < end:
            checked, until_us = task.validate != "off", task.cut.until_us if task.cut is not None else None
            below = Below(self._reducer_id, base, until_us, task.owner)
            for found in archive.findings(partition, start, end, settled=task.owner is not None or not checked):
                if (told := finding_of(found, partition, below, checked=checked)) is not None:
                    self._add(lane, told)
        if lane.plan.log[0] < lane.plan.log[1]:  # else nobody asks
            self._remember(lane, lane.plan.repeats)

    def _fold_span(self, archive: Archive, lane: _Lane, start: int, end: int, until_us: int | None) -> None:
        types = self._selection.types if self._selection is not None else None
        if self._selection is not None and self._selection.until_us is not None:
            until_us = min(self._selection.until_us, until_us) if until_us is not None else self._selection.until_us
        by_agent = self.task.view.owner == "agent"
        for rows in archive.rows(lane.partition, start, end, types=types, until_us=until_us, whole=self._whole, by_agent=by_agent):
            self._fold_rows(lane, rows)
            self._reach(lane, lane.at + len(rows))  # in whatever order they come, there are not more rows than offsets
        self._reach(lane, end)

    def _fold_rows(self, lane: _Lane, rows: Rows | None, *, owned: bool = False) -> None:
        self._check_cancelled()
        if rows is None:
            return
        self.tally.archived += len(rows)
        self._apply_rows(lane, rows, owned=owned)

    def _apply_rows(self, lane: _Lane, rows: Rows, *, owned: bool = False) -> None:
        chosen = rows if self._selection is None else self._selection.select(rows)
        self.tally.skipped += len(rows) - (len(chosen) if chosen is not None else 0)
        if chosen is not None:
            self._note(lane, chosen, lane.fold.apply_rows(chosen, owned=owned))

    def _fold_segments(self, archive: Archive, lane: _Lane, start: int, end: int, until_us: int | None) -> None:
        from tallyroll.replay.columnar import ColumnarFold  # noqa: PLC0415  # needs the extra
        from tallyroll.replay.projection import Projection  # noqa: PLC0415  # as above

        columnar, at = ColumnarFold(self._fold, self.task.view.name), start
        projection = Projection(self._fold, lane.fold.base)
        for segment in archive.segments(lane.partition):
            if at <= segment.base and segment.next <= end and segment.projection == projection.id:
                self._fold_span(archive, lane, at, segment.base, until_us)
                if _may_count(segment, until_us):
                    self._check_cancelled()
                    columns = archive.columns(lane.partition, segment, columnar.columns, aggregates=self.task.view.owner != "agent")
                    self.tally.folded += columnar.apply(columns, lane.fold.kept(self._view), until_us=until_us)
                    self.tally.columns += len(columns)
                    self.tally.archived += len(columns)
                at = segment.next
                self._reach(lane, at)
        self._fold_span(archive, lane, at, end, until_us)

    def _recheck(self, archive: Archive, lane: _Lane, start: int, end: int) -> None:
        """The raw records once more, as if they came from the log."""
        for batch in archive.records(lane.partition, start, end):
            self._check_cancelled()
            self.apply(batch, archived=True)

    # Snapshots

    def _from_snapshots(self, archive: Archive, lane: _Lane, start: int, end: int) -> int:
        """Puts the newest valid snapshots into place; gives the offset from which events have still to be folded."""
        task, partition = self.task, lane.partition
        until_us = task.cut.until_us if task.cut is not None else None
        if task.owner is not None:
            found = self._newest(
                lane, archive.parts(partition, task.view.name, self._reducer_id, end=end, order_us=until_us, owner=task.owner)
            )
            if found is None:
                return start
            self._restore(lane, found)
            return found.end
        base = boundary(archive.segments(partition), start, end, until_us, self._reducer_id)
        if base > start or lane.plan.pruned:
            for kept in archive.parts(partition, task.view.name, self._reducer_id, end=base):
                if is_sound(kept):
                    self._restore(lane, kept)
                else:
                    self._refold(archive, lane, kept, base)
        self._reach(lane, base)
        return base

    def _refold(self, archive: Archive, lane: _Lane, kept: StoredPart, base: int) -> None:
        """In the place of a damaged snapshot an older one of the owner, or none, and the events since."""
        partition, view = lane.partition, self.task.view
        found = self._newest(lane, archive.parts(partition, view.name, self._reducer_id, end=base, owner=kept.owner))
        alone = PartitionFold(self._fold, lane.fold.topic, lane.fold.base, lane.fold.partition, view=self._view, owner=kept.owner)
        if found is not None:
            alone.restore(self._view, found.owner, found.part)
            self.tally.snapshots += 1
        rows = archive.owner_rows(partition, owner_key(view, kept.owner), found.end if found is not None else lane.plan.archive[0], base)
        if rows is not None:
            self.tally.archived += len(rows)
            self.tally.folded += alone.apply_rows(rows).changed
        lane.fold.kept(self._view).update(alone.kept(self._view))

    def _newest(self, lane: _Lane, candidates: Iterator[StoredPart]) -> StoredPart | None:
        """The newest sound one; None if there is none, and all the events are there to be folded instead."""
        damaged = None
        for kept in candidates:
            if is_sound(kept):
                return kept
            damaged = kept
            self._add(lane, Finding("snapshot_corrupt", Position(*kept.partition, kept.end)))
        if damaged is not None and lane.plan.pruned:
            raise SnapshotMismatch(
                f"{damaged.view} at {damaged.partition}/{damaged.end}", "it is damaged, and the events before it are pruned"
            )
        return None

    def _restore(self, lane: _Lane, kept: StoredPart) -> None:
        lane.fold.restore(self._view, kept.owner, kept.part)
        self.tally.snapshots += 1

    # The log

    def apply(self, batch: Batch, *, archived: bool = False) -> None:
        """One batch of the log, in offset order within its partition."""
        self._check_cancelled()
        lane = self._lanes[batch.topic_partition]
        if lane.judge is None:
            self._note_batch(lane, batch, lane.fold.apply(batch))
        else:
            rows = lane.judge.rows(batch)
            self._note_batch(lane, batch, Applied(found=lane.judge.found))
            if rows is not None:
                self._apply_rows(lane, rows)
        if archived:
            self.tally.archived += len(batch)
        else:
            self.tally.logged += len(batch)
        self._reach(lane, batch.next_offset)

    def close(self) -> None:
        """Adds the findings that are only sure at the end."""
        for lane in self._lanes.values():
            if lane.sequences is not None:
                for finding in lane.sequences.findings():
                    self._add(lane, finding)
            if lane.chain is not None:
                for gap in lane.chain.open_gaps():
                    self._add(lane, Finding("session_gap", Position(*lane.partition, gap.offset), missing=1))
        self.done = self.total

    def _note_batch(self, lane: _Lane, batch: Batch, applied: Applied) -> None:
        self.tally.folded += applied.changed
        copies = set()
        for found in applied.found:
            if found.kind in ("repeat", "duplicate"):
                copies.add(found.index)
            if not is_anothers(found, self.task.view, self.task.owner, batch):
                self._add(lane, Finding(found.kind, batch.position(found.index), found.reason, aggregate_of(batch, found.index)))
        if lane.sequences is not None:
            lane.sequences.read(batch, copies)
        if lane.chain is not None:
            self._check_chain(lane, lane.chain, batch)

    def _check_chain(self, lane: _Lane, chain: ChainChecker, batch: Batch) -> None:
        heads = [None if isinstance(head, Undecodable) else head for head in batch.heads()]
        for index, found in chain.feed_all(batch.offsets, batch.values, heads):
            self._add(lane, Finding(_CHAIN_KINDS[found.kind], batch.position(index), aggregate=aggregate_of(batch, index)))  # type: ignore[arg-type]  # a map to kinds

    def _note(self, lane: _Lane, rows: Rows, applied: Applied) -> None:
        self.tally.folded += applied.changed
        for found in applied.found:
            if not is_anothers(found, self.task.view, self.task.owner, rows):
                self._add(lane, Finding(found.kind, rows.position(found.index), found.reason, rows.subjects[found.index].key))

    # What all have in common

    def _lane(self, one: PartitionPlan, catalogue: Catalogue) -> _Lane:
        task, (topic, number) = self.task, one.partition
        named = catalogue.named(topic)
        assert named is not None  # noqa: S101  # plans are made from the catalogue
        fold = PartitionFold(self._fold, topic, named.base, number, view=self._view, owner=task.owner, cut=task.cut)
        if task.owner is not None:  # so that what is wrong with its own events is told also where a snapshot stands for them
            fold.aggregates.add(f"agent:{task.owner}" if task.view.owner == "agent" else owner_key(task.view, task.owner))
        checked = task.validate != "off" and not (task.selection is not None and task.selection.narrows)
        return _Lane(
            one,
            fold,
            SequenceCheck(topic, number) if checked else None,
            ChainChecker(from_start=one.archive[0] == 0 and not one.missing) if task.validate == "chain" else None,
            Judge() if self._selection is not None else None,
            one.archive[0],
        )

    def _add(self, lane: _Lane, finding: Finding) -> None:
        """Of one owner's replay only what concerns the owner, and records of which nobody can tell whose they are."""
        narrowed = self.task.owner is not None and finding.kind not in ("skew_exceeded", "snapshot_corrupt", "unknown_schema")
        if narrowed and finding.aggregate and finding.aggregate not in lane.fold.aggregates:
            return
        self.findings.add(finding, listed=self.task.policy.check(finding))

    def _remember(self, lane: _Lane, repeats: bytes) -> None:
        if not repeats:
            return
        known = RepeatFilter.from_bytes(repeats)
        lane.fold.repeats = known
        if lane.judge is not None:
            lane.judge.repeats = known

    @property
    def _keys(self) -> list[str] | None:
        """What the archive's locator can look up; None where everything has to be read."""
        if self.task.owner is not None:
            return [owner_key(self.task.view, self.task.owner)]
        keys = self._selection.keys if self._selection is not None else None
        return keys if keys is not None and len(keys) <= _MAX_LOOKUPS else None

    @property
    def _whole(self) -> bool:
        return self._selection is not None and self._selection.whole

    def _reach(self, lane: _Lane, offset: int) -> None:
        """Everything below an offset is dealt with; what is missing between archive and log was never to be read."""
        if offset > lane.plan.archive[1]:
            lane.at = max(lane.at, lane.plan.log[0])
        if offset > lane.at:
            self.done += offset - lane.at
            lane.at = offset

    def _check_cancelled(self) -> None:
        if self._stop.is_set():
            raise ReplayCancelled("", 100 * self.done / max(1, self.total))


def boundary(segments: Sequence[Segment], start: int, end: int, until_us: int | None, reducer_id: str) -> int:
    """The end of the longest run of segments from the start whose snapshots together are every owner's state there."""
    base = start
    for segment in segments:
        if segment.next <= start:
            continue
        if segment.next > end or reducer_id not in segment.reducers or (until_us is not None and (segment.last_us or 0) > until_us):
            break
        base = segment.next
    return base


def _may_count(segment: Segment, until_us: int | None) -> bool:
    return until_us is None or segment.first_us is None or segment.first_us <= until_us
