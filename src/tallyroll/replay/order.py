"""The one order of an owner's events that lie in several partitions: by ``(order_us, topic, partition, offset)``.

``order_us`` is the largest event time that the owner's part of a partition has met so far, so the order never contradicts
the log's own; time only decides between partitions. Only events that count have a say in it. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, chain, repeat
from typing import Final, NamedTuple

from tallyroll.events.position import TopicPartition
from tallyroll.events.recorded import RecordedEvent, is_sound, rows_events
from tallyroll.events.rows import Rows
from tallyroll.replay.selection import take_rows

_NEVER: Final = -(2**63)

OwnerRows = Mapping[TopicPartition, Rows]
"""An owner's events: per partition its rows in offset order, copies left out."""


class Standing(NamedTuple):
    """How far an owner's events are folded: the order key of the last one, and per partition the largest event time met."""

    last: tuple[int, str, int, int]
    peaks: tuple[tuple[str, int, int], ...]


def in_order(history: OwnerRows, types: Collection[str] | None = None) -> Iterator[RecordedEvent]:
    """One owner's events in order-key order, made as they are asked for; ``types``: only these count, all unless given."""
    return merged(counting(history, types))


def counting(history: OwnerRows, types: Collection[str] | None = None) -> list[Rows]:
    """The rows that count, per partition; what is no event must not move the order either."""
    return [rows for _, found in sorted(history.items()) if (rows := _counting(found, types)) is not None]


def merged(some: Sequence[Rows]) -> Iterator[RecordedEvent]:
    """The events of such rows in order-key order.

    Of rows that follow upon others too: the earlier ones could only raise a first key to the last of theirs, which is below
    all keys here.
    """
    if len(some) == 1:
        return rows_events(some[0])
    lanes = by_order_key([rows.times_us for rows in some])
    streams = [rows_events(rows) for rows in some]
    return map(next, map(streams.__getitem__, lanes))


def follows(before: Standing, some: Sequence[Rows]) -> bool:
    """Whether all the events of such rows come after those that are folded already."""
    peaks = _peaks(before)
    firsts = [(max(rows.times_us[0], peaks.get(rows.topic_partition, _NEVER)), *rows.topic_partition, rows.offsets[0]) for rows in some]
    return min(firsts) > before.last


def standing(before: Standing | None, some: Sequence[Rows]) -> Standing:
    """How far an owner is folded after such rows, of which there is one at least."""
    peaks = _peaks(before)
    lasts = [] if before is None else [before.last]
    for rows in some:
        where = rows.topic_partition
        peaks[where] = max(*rows.times_us, peaks.get(where, _NEVER))
        lasts.append((peaks[where], *where, rows.offsets[-1]))
    return Standing(max(lasts), tuple((*where, peak) for where, peak in sorted(peaks.items())))


def _peaks(before: Standing | None) -> dict[TopicPartition, int]:
    return {} if before is None else {TopicPartition(topic, number): peak for topic, number, peak in before.peaks}


def by_order_key(times_us: Sequence[Sequence[int]]) -> list[int]:
    """From which partition each next event comes; given per partition, in their order, the event times in offset order."""
    keys = list(chain.from_iterable(accumulate(times, max) for times in times_us))
    lanes = list(chain.from_iterable(repeat(lane, len(times)) for lane, times in enumerate(times_us)))
    # Within a partition the keys never fall and the sort is stable, so it is enough to know whose turn it is.
    return [lanes[place] for place in sorted(range(len(keys)), key=keys.__getitem__)]


def _counting(rows: Rows, types: Collection[str] | None) -> Rows | None:
    """The rows that count; None if none do."""
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
