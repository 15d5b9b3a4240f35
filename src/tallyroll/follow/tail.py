"""Reading records as they come, without a group: what ``tail`` and timelines are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.event import AgentEvent
from tallyroll.events.expected import WINDOW
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.ports import Clock, EventLog, Span

_LOOK_S: Final = 0.2  # how often the ends are looked at while following: a person is watching, not a machine


E_co = TypeVar("E_co", bound=AgentEvent | Undecodable, covariant=True)


class Seen(NamedTuple, Generic[E_co]):
    """One record: where it lies, and the event, or why there is none."""

    position: Position
    event: E_co


SeenRecord: TypeAlias = Seen[AgentEvent | Undecodable]
"""A record as it comes, readable or not."""

Wanted = Callable[[AgentEvent], bool]
"""Whether an event is of interest."""


async def read_events(log: EventLog, spans: Sequence[Span]) -> AsyncIterator[SeenRecord]:
    """Every record of the spans, per partition in order. Raises SpanGone, LogUnavailable."""
    async for batch in log.read(spans):
        for seen in _seen(batch):
            yield seen


async def repeats_before(log: EventLog, positions: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, RepeatFilter]:
    """What somebody knows who has read up to these offsets, as far as the last few thousand records tell. Raises as above."""
    starts = await log.starts(sorted({partition.topic for partition in positions})) if positions else {}
    found = {partition: RepeatFilter() for partition in positions}
    begin = {partition: max(starts.get(partition, 0), end - WINDOW) for partition, end in positions.items()}
    async for batch in log.read(_spans(begin, positions)):
        found[batch.topic_partition].copies(*batch.readable())
    return found


async def tail(  # noqa: PLR0913  # one per thing that can be asked for
    log: EventLog,
    topics: Sequence[str],
    *,
    clock: Clock,
    since: datetime | None = None,
    last: int | None = None,
    follow: bool = False,
    at_end: Callable[[], None] | None = None,
) -> AsyncIterator[SeenRecord]:
    """Records of the topics: since a moment, the last few of each partition, or all; with ``follow`` also those to come.

    ``since`` goes by the log's timestamps. Following ends when the caller stops.

    Ordering: per partition. What is there at the start is merged by event time, so that a person can read it; what comes
    later is shown as it comes. ``at_end`` is called once, when what was there at the start has been taken.
    Not promised: order between partitions.
    """
    ends = dict(await log.ends(topics))
    begin = await _begin(log, topics, ends, since, last)
    there = [seen async for seen in read_events(log, _spans(begin, ends))] if last is not None or since is not None else None
    if there is not None:
        for seen in sorted(there, key=_when):
            yield seen
    else:
        async for seen in read_events(log, _spans(begin, ends)):
            yield seen
    if at_end is not None:
        at_end()
    while follow:
        now = dict(await log.ends(topics))
        news = _spans(ends, now)
        if news:
            for seen in sorted([seen async for seen in read_events(log, news)], key=_when):
                yield seen
            ends = now
        else:
            await clock.sleep(_LOOK_S)


async def timeline(log: EventLog, topics: Sequence[str], wanted: Wanted) -> list[Seen[AgentEvent]]:
    """The wanted events of the whole log, ordered by event time, then position: one agent's or one task's story."""
    starts, ends = await log.starts(topics), await log.ends(topics)
    found = [
        Seen(position, event)
        async for position, event in read_events(log, _spans(starts, ends))
        if isinstance(event, AgentEvent) and wanted(event)
    ]
    return sorted(found, key=_when)


async def _begin(
    log: EventLog, topics: Sequence[str], ends: Mapping[TopicPartition, int], since: datetime | None, last: int | None
) -> Mapping[TopicPartition, int]:
    if since is not None:
        return await log.positions_at(topics, int(since.timestamp() * 1_000))
    starts = await log.starts(topics)
    if last is None:
        return starts
    return {partition: max(starts.get(partition, 0), end - last) for partition, end in ends.items()}


def _spans(begin: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> list[Span]:
    return [Span(*partition, begin.get(partition, 0), end) for partition, end in ends.items() if begin.get(partition, 0) < end]


def _seen(batch: Batch) -> list[SeenRecord]:
    result: list[SeenRecord] = []
    for index in range(len(batch)):
        try:
            result.append(Seen(batch.position(index), batch.event(index)))
        except Undecodable as error:  # one bad record must not hide its neighbours
            result.append(Seen(batch.position(index), error))
    return result


def _when(seen: SeenRecord) -> tuple[float, Position]:
    return (seen.event.timestamp.timestamp() if isinstance(seen.event, AgentEvent) else 0.0, seen.position)
