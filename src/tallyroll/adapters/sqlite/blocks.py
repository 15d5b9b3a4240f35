"""Records as blocks, and blocks as batches: how the log looks inside a row, and every query that reads it.

A block holds its records as columns in MessagePack: ``[timestamps_ms, keys, values, header sets, which set each has]``;
the last is empty when all have the first. Blocks instead of a row per record, because SQLite's Python binding gives up the
interpreter's lock at each row: beside a busy event loop 500 rows took 270 to 680 ms, one block of them 5 to 20 ms. They
are quicker anyway: on one disk 2.6 times in writing and 2.2 times in reading (batches of 1,000 records of 690 bytes).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from tallyroll.adapters.sqlite.schema import OFFSET_BITS, OFFSET_MASK
from tallyroll.errors import LogUnavailable, SpanGone
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Encoded

_BLOCK_RECORDS: Final = 500  # the usual batch; a reader that wants less decodes a block more than once
_BLOCK_BYTES: Final = 1 << 20  # so that one step of SQLite stays short
_BATCH_BYTES: Final = 16 << 20  # what one batch may hold in memory, whatever max_records says

Header = tuple[str, bytes]


class _Columns(msgspec.Struct, array_like=True, gc=False):
    timestamps_ms: list[int]
    keys: list[bytes]
    values: list[bytes]
    header_sets: list[list[Header]]
    header_of: list[int]


class Block(NamedTuple):
    """A run of records ready to be stored; fields in the order of the table's columns after the position."""

    length: int
    high_ms: int
    checksum: int
    payload: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Columns).decode


def headers_size(headers: Sequence[Header]) -> int:
    """Bytes of names and values together."""
    return sum(len(name.encode()) + len(value) for name, value in headers)


def to_blocks(records: Sequence[Encoded], high_ms: int) -> Iterator[Block]:
    """The records, in order, as blocks of bounded size; ``high_ms`` is the partition's before them."""
    start = size = 0
    for index, record in enumerate(records):
        size += len(record.value)
        if index > start and (index - start >= _BLOCK_RECORDS or size > _BLOCK_BYTES):
            yield (block := _to_block(records[start:index], high_ms))
            high_ms = block.high_ms
            start, size = index, len(record.value)
    yield _to_block(records[start:], high_ms)


def _to_block(records: Sequence[Encoded], high_ms: int) -> Block:
    timestamps = [record.timestamp_ms for record in records]
    sets: dict[tuple[Header, ...], int] = {}
    header_of = [sets.setdefault(tuple(record.headers), len(sets)) for record in records]
    payload = _encode(
        _Columns(
            timestamps,
            [record.key for record in records],
            [record.value for record in records],
            [list(headers) for headers in sets],
            header_of if len(sets) > 1 else [],
        )
    )
    return Block(len(records), max(high_ms, *timestamps), crc32(payload), payload)


class Want(NamedTuple):
    """What is wanted of one partition: from ``start`` on, below ``end``."""

    partition: TopicPartition
    number: int
    start: int
    end: int


def fetch(connection: sqlite3.Connection, wants: Sequence[Want], max_records: int) -> list[Batch]:
    """At most one batch per partition, ``max_records`` together; earlier ones in ``wants`` are served first.

    One snapshot: offsets are given out inside the writing transaction, so nothing can fill in later below what is seen.
    Raises SpanGone with every partition whose start was removed. Runs inside a transaction of the caller.
    """
    gone = {str(want.partition): first for want in wants if (first := _first_offset(connection, want.number)) > want.start}
    if gone:
        raise SpanGone(gone)
    batches = []
    for want in wants:
        batch = _fetch_one(connection, want, max_records)
        if batch is not None:
            batches.append(batch)
            max_records -= len(batch)
            if max_records <= 0:
                break
    return batches


def _first_offset(connection: sqlite3.Connection, number: int) -> int:
    return int(connection.execute("SELECT first_offset FROM partitions WHERE number = ?", (number,)).fetchone()[0])


# The block that holds the wanted offset may begin before it.
_FROM: Final = """
SELECT position, count, checksum, payload FROM blocks
WHERE position >= coalesce((SELECT max(position) FROM blocks WHERE position BETWEEN ? AND ?), ?) AND position < ?
ORDER BY position
"""


def _blocks(connection: sqlite3.Connection, number: int, start: int, end: int) -> Generator[tuple[int, int, _Columns], None, None]:
    """First offset, count and columns of each block that holds something of ``start`` to ``end``."""
    base = number << OFFSET_BITS
    cursor = connection.execute(_FROM, (base, base | start, base | start, base | min(end, OFFSET_MASK)))
    try:
        for position, count, checksum, payload in cursor:
            if crc32(payload) != checksum:
                raise LogUnavailable(
                    f"partition number {number}", f"the block at offset {position & OFFSET_MASK} is damaged; restore a copy"
                )
            if (position & OFFSET_MASK) + count > start:
                yield position & OFFSET_MASK, count, _decode(payload)
    finally:
        cursor.close()


def _damaged(number: int, offset: int) -> LogUnavailable:
    return LogUnavailable(
        f"partition number {number}", f"the file is damaged at or before offset {offset}; restore a copy, keep the damaged one"
    )


def _fetch_one(connection: sqlite3.Connection, want: Want, max_records: int) -> Batch | None:
    timestamps: list[int] = []
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: list[Sequence[Header]] = []
    size = 0
    with closing(_blocks(connection, want.number, want.start, want.end)) as blocks:
        for first, count, columns in blocks:
            low = max(want.start - first, 0)
            if first + low != want.start + len(values):
                raise _damaged(want.number, first)  # what should lie before it is not there
            high = min(count, want.end - first, low + max_records - len(values))
            timestamps += columns.timestamps_ms[low:high]
            keys += columns.keys[low:high]
            values += columns.values[low:high]
            sets = columns.header_sets
            headers += [sets[i] for i in columns.header_of[low:high]] if columns.header_of else [sets[0]] * (high - low)
            size += sum(map(len, columns.values[low:high]))
            if len(values) >= max_records or size >= _BATCH_BYTES:
                break
    if not values:
        return None
    return Batch(
        want.partition.topic,
        want.partition.partition,
        offsets=range(want.start, want.start + len(values)),
        keys=keys,
        values=values,
        timestamps_ms=timestamps,
        headers=headers,
    )


def first_at(connection: sqlite3.Connection, number: int, start: int, end: int, timestamp_ms: int) -> int:
    """The first offset from ``start`` on whose timestamp is at or after the moment, ``end`` if there is none."""
    base = number << OFFSET_BITS
    low, high = start, end
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT position, count, high_ms FROM blocks WHERE position <= ? ORDER BY position DESC LIMIT 1", (base | middle,)
        ).fetchone()
        position, count, high_ms = row or (-1, 0, 0)
        first = position & OFFSET_MASK
        if position < base or first + count <= middle:
            raise _damaged(number, middle)
        if high_ms >= timestamp_ms:
            high = max(first, low)
        else:
            low = first + count
    # Nothing before here can be it. The block found can still be short of the moment, when a removed record was past it.
    with closing(_blocks(connection, number, low, end)) as blocks:
        for first, _, columns in blocks:
            for index, timestamp in enumerate(columns.timestamps_ms):
                if timestamp >= timestamp_ms and first + index >= low:
                    return first + index
    return end
