"""What a replay is asked for, and what it therefore has to read. Pure: the extents of archive and log go in, spans come out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from tallyroll.errors import NoSuchOffset, SpanGone
from tallyroll.events.moments import us_of
from tallyroll.events.position import TopicPartition
from tallyroll.ports import ArchiveMark

Coverage = Literal["complete", "from_snapshot", "truncated"]
"""How much of the history an answer is made of: all of it; all, with snapshots for what was pruned; or a part."""

SKEW: Final = timedelta(minutes=5)  # the disorder of event times that is expected of clocks and publishers' spools
_MICROSECOND: Final = timedelta(microseconds=1)


class ReplayMode(StrEnum):
    """How the history is read. All modes run the same fold; where they cover the same events they give the same state.

    FULL reads everything from the first event, in this process, and trusts no snapshot: the reference. INCREMENTAL starts
    from the newest valid snapshots and reads only what came after. POINT_IN_TIME stops at a target, and starts from the
    newest snapshots at or below it. SELECTIVE reads what a filter lets through. PARALLEL is FULL in several processes.
    """

    FULL = "full"
    INCREMENTAL = "incremental"
    POINT_IN_TIME = "point_in_time"
    SELECTIVE = "selective"
    PARALLEL = "parallel"


@dataclass(frozen=True, slots=True)
class AsOfOffsets:
    """All records below these offsets: always exact, the form to record. Partitions that are not named are not read."""

    ends: Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class AsOfEventTime:
    """Events with that time or an earlier one (inclusive), wherever they lie. The moment is aware, else ValueError.

    Exact as to what has been read. ``skew`` bounds the disorder that is expected of what is still to come: an event that
    comes later than that is reported, and until the log has gone on for so long the answer is not final.
    """

    moment: datetime
    skew: timedelta = SKEW

    def __post_init__(self) -> None:
        if self.moment.utcoffset() is None:
            raise ValueError("until: a datetime without a zone could mean any hour; use datetime.now(timezone.utc)")
        if self.skew < timedelta(0):
            raise ValueError("skew: expected 0 or more")

    @property
    def until_us(self) -> int:
        """The moment, microseconds since 1970."""
        return us_of(self.moment)

    @property
    def skew_us(self) -> int:
        """The bound, microseconds."""
        return self.skew // _MICROSECOND


Target = AsOfOffsets | AsOfEventTime


def as_of_offsets(ends: Mapping[TopicPartition, int]) -> AsOfOffsets:
    """All records below these offsets."""
    return AsOfOffsets(dict(ends))


def as_of_event_time(moment: datetime, skew: timedelta = SKEW) -> AsOfEventTime:
    """Events up to a moment, inclusive. Raises ValueError for a moment without a zone."""
    return AsOfEventTime(moment, skew)


@dataclass(frozen=True, slots=True)
class ReplayFilter:
    """Which events count: every given member must let an event through, each set by any of its values.

    Both times are inclusive, by event time, aware. ``custom_predicate`` is asked last, with the event itself; what it
    raises stops the replay with ReducerFailed. None (or an empty set) lets everything through.
    """

    event_types: Collection[str] | None = None
    aggregate_ids: Collection[str] | None = None
    aggregate_types: Collection[str] | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    user_ids: Collection[str] | None = None
    correlation_ids: Collection[str] | None = None
    custom_predicate: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        for name in ("event_types", "aggregate_ids", "aggregate_types", "user_ids", "correlation_ids"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise ValueError(f"{name}: expected a set of names, got one text; write {{{given!r}}}")  # noqa: TRY004  # a slip in a value
            object.__setattr__(self, name, frozenset(map(str, given)) if given else None)
        for name in ("start_time", "end_time"):
            moment = getattr(self, name)
            if moment is not None and moment.utcoffset() is None:
                raise ValueError(f"{name}: a datetime without a zone could mean any hour; use datetime.now(timezone.utc)")

    def matches(self, event: Any) -> bool:  # noqa: ANN401  # an AgentEvent, or a RecordedEvent, which look alike
        """Whether the event passes."""
        return (
            (self.event_types is None or event.event_type in self.event_types)
            and (self.aggregate_ids is None or event.aggregate_id in self.aggregate_ids)
            and (self.aggregate_types is None or event.aggregate_type in self.aggregate_types)
            and (self.start_time is None or event.timestamp >= self.start_time)
            and (self.end_time is None or event.timestamp <= self.end_time)
            and (self.user_ids is None or event.metadata.user_id in self.user_ids)
            and (self.correlation_ids is None or event.metadata.correlation_id in self.correlation_ids)
            and (self.custom_predicate is None or self.custom_predicate(event))
        )

    @property
    def narrows(self) -> bool:
        """Whether events of an aggregate may be left out, so that states are made of a part of their events."""
        mine = (self.event_types, self.start_time, self.end_time, self.user_ids, self.correlation_ids, self.custom_predicate)
        return any(one is not None for one in mine)

    @property
    def keys(self) -> list[str] | None:
        """The keys ``type:id`` that can pass, where the filter names both; None otherwise."""
        if self.aggregate_ids is None or self.aggregate_types is None:
            return None
        return sorted(f"{kind}:{ident}" for kind in self.aggregate_types for ident in self.aggregate_ids)


class Extent(NamedTuple):
    """What there is of one partition: the archive's mark, and the log from ``start`` to ``end`` (exclusive)."""

    mark: ArchiveMark | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """What is read of one partition: ``archive`` first, then ``log``; both half-open, empty where start equals end.

    ``missing`` are spans below ``end`` that neither has; ``pruned``: what snapshots of every owner stand for. ``repeats`` is
    what the log's part has to know of the archive's, ``last_us`` the largest event time in the archive.
    """

    partition: TopicPartition
    archive: tuple[int, int]
    log: tuple[int, int]
    end: int
    missing: Sequence[tuple[int, int]] = ()
    pruned: int = 0
    repeats: bytes = b""
    last_us: int | None = None

    @property
    def records(self) -> int:
        """How many offsets are read, at most as many records."""
        return self.archive[1] - self.archive[0] + self.log[1] - self.log[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is read for one answer."""

    partitions: Sequence[PartitionPlan] = field(default_factory=tuple)

    @property
    def as_of(self) -> dict[TopicPartition, int]:
        """The offset vector: per partition the first offset that is not part of the answer."""
        return {one.partition: one.end for one in self.partitions}

    @property
    def missing(self) -> dict[TopicPartition, Sequence[tuple[int, int]]]:
        """The spans that are gone, where any are."""
        return {one.partition: one.missing for one in self.partitions if one.missing}

    def gone(self, extents: Mapping[TopicPartition, Extent]) -> SpanGone:
        """What to raise where spans are missing: per partition where the last of them ends, and whether pruning took any."""
        pruned = any(
            (mark := extents[one.partition].mark) is not None and any(start < mark.kept for start, _ in one.missing)
            for one in self.partitions
        )
        return SpanGone({str(partition): spans[-1][1] for partition, spans in self.missing.items()}, pruned=pruned)

    @property
    def coverage(self) -> Coverage:
        """The worst of the partitions."""
        if self.missing:
            return "truncated"
        return "from_snapshot" if any(one.pruned for one in self.partitions) else "complete"

    @property
    def records(self) -> int:
        """How many offsets are read in all."""
        return sum(one.records for one in self.partitions)


def plan(
    extents: Mapping[TopicPartition, Extent],
    *,
    ends: Mapping[TopicPartition, int] | None = None,
    reducers: Collection[str] = (),
    until_us: int | None = None,
) -> Plan:
    """What to read of each partition up to its present end, or up to ``ends`` where given.

    ``reducers``: ids for all of which there have to be snapshots that stand for what the archive has pruned; none if nothing
    can. ``until_us``: the event time at which counting stops; no snapshot stands for a moment before it. Raises NoSuchOffset
    for an end that lies beyond what there is.
    """
    plans = []
    for partition, extent in sorted(extents.items()):
        known = max(extent.end, extent.mark.next if extent.mark is not None else 0)
        if ends is None:
            end = known
        elif partition not in ends:
            continue
        else:
            end = ends[partition]
        if not 0 <= end <= known:
            raise NoSuchOffset(str(partition), end, known)
        plans.append(_of_partition(partition, extent, end, reducers, until_us))
    if ends is not None and (unknown := sorted(set(ends) - set(extents))):
        raise NoSuchOffset(str(unknown[0]), ends[unknown[0]], None)
    return Plan(plans)


def _of_partition(partition: TopicPartition, extent: Extent, end: int, reducers: Collection[str], until_us: int | None) -> PartitionPlan:
    mark, start = extent.mark, extent.start
    pruned = _replaced(mark, end, reducers, until_us) if mark is not None else 0
    reach = 0 if mark is None else mark.first if pruned else max(mark.first, mark.kept)  # what the archive has begins there
    if mark is None or (start < reach and start < mark.next):
        # Without an archive, or where the log reaches further back than the archive does.
        first = min(start, end)
        return PartitionPlan(partition, (0, 0), (first, end), end, _gap(0, first))
    archived = min(mark.next, end)
    reach = min(reach, archived)
    base = min(max(mark.first, mark.kept), archived)
    log_from = min(max(archived, start), end)
    holes = [(max(hole.start, reach), min(hole.end, archived)) for hole in mark.holes if hole.start < archived and hole.end > reach]
    missing = [*_gap(0, reach), *holes, *_gap(archived, log_from)]
    repeats = mark.repeats if archived == mark.next else b""
    return PartitionPlan(partition, (base, archived), (log_from, end), end, missing, pruned, repeats, mark.last_us)


def _replaced(mark: ArchiveMark, end: int, reducers: Collection[str], until_us: int | None) -> int:
    """Up to where snapshots stand for what was pruned, 0 if they do not."""
    told = bool(reducers) and all(one in mark.kept_for for one in reducers) and mark.kept <= end
    return mark.kept if told and (until_us is None or mark.kept_us is None or mark.kept_us <= until_us) else 0


def _gap(start: int, end: int) -> list[tuple[int, int]]:
    return [(start, end)] if start < end else []
