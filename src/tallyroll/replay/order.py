"""The one order of an owner's events that lie in several partitions: by ``(order_us, topic, partition, offset)``.

``order_us`` is the largest event time that the owner's part of a partition has met so far, so the order never contradicts
the log's own; time only decides between partitions. Only events that count have a say in it. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, chain, repeat

from tallyroll.events.position import TopicPartition
from tallyroll.events.recorded import RecordedEvent, is_sound, rows_events
from tallyroll.events.rows import Rows
from tallyroll.replay.selection import take_rows

OwnerRows = Mapping[TopicPartition, Rows]
"""An owner's events: per partition its rows in offset order, copies left out."""


def in_order(history: OwnerRows, types: Collection[str] | None = None) -> Iterator[RecordedEvent]:
    """One owner's events in order-key order, made as they are asked for; ``types``: only these count, all unless given."""
    counting = [rows for _, found in sorted(history.items()) if (rows := _counting(found, types)) is not None]
    if len(counting) == 1:
        return rows_events(counting[0])
    lanes = by_order_key([rows.times_us for rows in counting])
    streams = [rows_events(rows) for rows in counting]
    return map(next, map(streams.__getitem__, lanes))


def by_order_key(times_us: Sequence[Sequence[int]]) -> list[int]:
    """From which partition each next event comes; given per partition, in their order, the event times in offset order."""
    keys = list(chain.from_iterable(accumulate(times, max) for times in times_us))
    lanes = list(chain.from_iterable(repeat(lane, len(times)) for lane, times in enumerate(times_us)))
    # Within a partition the keys never fall and the sort is stable, so it is enough to know whose turn it is.
    return [lanes[place] for place in sorted(range(len(keys)), key=keys.__getitem__)]


def _counting(rows: Rows, types: Collection[str] | None) -> Rows | None:
    """The rows that count; None if none do. What is no event must not move the order either."""
    if types is None and is_sound(rows):
        return rows
    kept = [
        index
        for index, (name, data) in enumerate(zip(rows.types, rows.data, strict=True))
        if data[:1] == b"{" and (types is None or name in types)
    ]
    if len(kept) == len(rows):
        return rows
    return take_rows(rows, kept) if kept else None
