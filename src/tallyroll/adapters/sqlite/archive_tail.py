"""The tail of one partition's archive in tables: a packed row per record, and where each owner's are.

A record is one value, since of ten columns most of the time went into handing them over; the reader takes all of them anyway.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import compress, islice
from operator import itemgetter
from typing import Any, Final, get_type_hints

import msgspec

from tallyroll.adapters.sqlite.binding import ManyRows
from tallyroll.ports import Judged, Odd, TailColumns

# Where an owner's first copies are is written once for each append, and found by stretches of offsets: a flush has records of many
# owners, and in an index of the whole tail it would write a page for each. So it writes the last few, and who looks for an owner
# looks into each stretch. Nobody looks for other copies by owner.
TABLES: Final = """
CREATE TABLE IF NOT EXISTS tail_record (at INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tail_owner (
    stretch INTEGER NOT NULL, key TEXT NOT NULL, first INTEGER NOT NULL, offsets TEXT NOT NULL, PRIMARY KEY (stretch, key, first)
) STRICT, WITHOUT ROWID;
"""

_STRETCH_BITS: Final = 12
_AGENT: Final = "@"
_AGGREGATE: Final = ":"  # so that none is taken for an agent, whatever its name
_MOVED: Final = 4_096  # records at a time
_RECORDS: Final = ManyRows("tail_record", ("at", "record"))
_OWNERS: Final = ManyRows("tail_owner", ("stretch", "key", "first", "offsets"))
_SPAN: Final = "SELECT record FROM tail_record WHERE at >= ? AND at < ? ORDER BY at LIMIT ?"
# Stretches that have any, each found from the one before it. Offsets of records that were sealed meanwhile lead to none.
_OWNED: Final = """
WITH RECURSIVE each_stretch (number) AS (
    SELECT min(stretch) FROM tail_owner
    UNION ALL
    SELECT (SELECT min(stretch) FROM tail_owner WHERE stretch > number) FROM each_stretch WHERE number IS NOT NULL
)
SELECT record FROM each_stretch CROSS JOIN tail_owner ON stretch = number AND tail_owner.key = :key AND first < :end
    CROSS JOIN json_each(offsets) CROSS JOIN tail_record ON at = value WHERE value >= :start AND value < :end
"""
_IN_VERSION_1: Final = "SELECT at, timestamp_ms, key, value, headers, time_us, agent, aggregate, verdict, reason FROM tail ORDER BY at"

_encode: Final = msgspec.msgpack.Encoder().encode
_judged: Final = msgspec.msgpack.Decoder(Judged).decode
_json: Final = msgspec.json.Encoder().encode
_OFFSET: Final = itemgetter(0)
_RECORD: Final = _OFFSET


# As ``Judged``; reading into columns takes two thirds of the time, since the collector does not look at it.
_Told: Final = msgspec.defstruct("_Told", [*get_type_hints(Judged).items()], array_like=True, gc=False)
_told: Final[Callable[[bytes], Any]] = msgspec.msgpack.Decoder(_Told).decode


def insert(connection: sqlite3.Connection, records: Sequence[Judged]) -> tuple[int, int | None]:
    """Adds records, of which there is at least one, behind all others; their bytes, and the newest event time among first copies."""
    _RECORDS.insert(connection, zip(map(_OFFSET, records), map(bytearray, map(_encode, records)), strict=True))
    offsets, _, keys, values, _, times_us, agents, aggregates, verdicts, _ = zip(*records, strict=True)
    firsts = None if verdicts.count("first") == len(records) else [verdict == "first" for verdict in verdicts]
    owners = {f"{_AGENT}{name}": theirs for name, theirs in _places(agents, offsets, firsts)}
    owners |= {f"{_AGGREGATE}{name}": theirs for name, theirs in _places(aggregates, offsets, firsts)}
    first = offsets[0]
    # In the order of the table: what is near each other goes into the same page.
    rows = ((first >> _STRETCH_BITS, key, first, _json(theirs).decode()) for key, theirs in sorted(owners.items()))
    _OWNERS.insert(connection, rows)
    known_us = (one for one in (times_us if firsts is None else compress(times_us, firsts)) if one is not None)
    return _lengths(keys) + _lengths(values), max(known_us, default=None)


def _places(names: Sequence[str | None], offsets: Sequence[int], firsts: Sequence[bool] | None) -> Iterable[tuple[str, list[int]]]:
    """Of each name the offsets of its first copies; None where all are."""
    places: defaultdict[str | None, list[int]] = defaultdict(list)
    pairs = zip(names, offsets, strict=True)
    for name, offset in pairs if firsts is None else compress(pairs, firsts):
        places[name].append(offset)
    return [(name, theirs) for name, theirs in places.items() if name is not None]


def _lengths(column: Iterable[bytes | None]) -> int:
    return sum(map(len, filter(None, column)))


def read(connection: sqlite3.Connection, start: int, end: int, limit: int) -> list[Judged]:
    """Records from ``start`` on, below ``end``, in offset order."""
    return [*map(_judged, map(_RECORD, connection.execute(_SPAN, (start, end, limit))))]


def scan(connection: sqlite3.Connection, start: int, end: int, limit: int) -> TailColumns | None:
    """As ``read``, as columns; None where there are none."""
    told = [*map(_told, map(_RECORD, connection.execute(_SPAN, (start, end, limit))))]
    if not told:
        return None
    odd = {at: Odd(one.verdict, one.reason, one.aggregate) for at, one in enumerate(told) if one.verdict != "first"}
    return TailColumns(
        [one.offset for one in told], [one.value for one in told], [one.time_us for one in told], [one.agent for one in told], odd
    )


def owned(connection: sqlite3.Connection, key: str, start: int, end: int) -> list[Judged]:
    """One owner's first copies, in offset order; ``key`` is ``@agent`` or the aggregate."""
    stored = key if key.startswith(_AGENT) else f"{_AGGREGATE}{key}"
    found = connection.execute(_OWNED, {"key": stored, "start": start, "end": end})
    return sorted(map(_judged, map(_RECORD, found)), key=_OFFSET)


def drop(connection: sqlite3.Connection, end: int, *, following: int) -> tuple[int, int]:
    """Removes what is below ``end``; how many records are left then, and their bytes. ``following`` is the next offset of all."""
    if end == following:
        # Without a condition SQLite drops a whole table at once; that is the usual case.
        connection.execute("DELETE FROM tail_record")
        connection.execute("DELETE FROM tail_owner")
        return 0, 0
    connection.execute("DELETE FROM tail_record WHERE at < ?", (end,))
    # The last append that begins below may go on behind it.
    [[last]] = connection.execute("SELECT max(first) FROM tail_owner WHERE stretch <= ? AND first < ?", (end >> _STRETCH_BITS, end))
    if last is not None:
        connection.execute("DELETE FROM tail_owner WHERE stretch <= ? AND first < ?", (last >> _STRETCH_BITS, last))
    left = read(connection, end, following, -1)
    return len(left), sum(len(one.key or b"") + len(one.value or b"") for one in left)


def move(connection: sqlite3.Connection) -> None:
    """Takes the records out of the table that version 1 had, with a row of columns for each."""
    rows = map(Judged._make, connection.execute(_IN_VERSION_1))
    while some := [*islice(rows, _MOVED)]:
        insert(connection, some)
    connection.execute("DROP TABLE tail")
