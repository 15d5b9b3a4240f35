"""Events of all owners, met in the order of the log, handed on owner by owner: what users' reducers need.

Owners are dealt into buckets by a hash of their name. What goes beyond the bound in memory waits in one temporary file
that has no name, so that nothing of it stays behind, however the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final
from zlib import crc32

import msgspec

from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Rows, Subject
from tallyroll.replay.order import OwnerRows
from tallyroll.replay.selection import concat_rows, take_rows

OwnersOf = Callable[[Rows], Sequence[str | None]]
"""Whose each row is, None for rows that are nobody's."""

MAX_BYTES: Final = 256 * 1024 * 1024
BUCKETS: Final = 256  # a bucket is read back whole, so the most that is in memory is the bound and the largest bucket
_ROW_BYTES: Final = 120  # what a row takes beside its payload and record: one entry in each of nine columns, some of them objects

_Held = dict[str, list[tuple[Rows, list[int]]]]
_Spilled = tuple[str, str, int, list[Any]]  # the last: columns, None for those that were not asked for
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[_Spilled]).decode


def owners_by(owner: str) -> OwnersOf:
    """Whose rows are by the word of a ``View``: ``agent``, ``aggregate``, or a type of aggregate."""
    if owner == "agent":
        return lambda rows: rows.agents
    if owner == "aggregate":
        return lambda rows: [subject.key for subject in rows.subjects]
    return lambda rows: [subject.aggregateid if subject.aggregatetype == owner else None for subject in rows.subjects]


def bucketed(
    rows: Iterable[Rows], owners_of: OwnersOf, spill_dir: Path | None = None, *, max_bytes: int = MAX_BYTES, buckets: int = BUCKETS
) -> Iterator[tuple[str, OwnerRows]]:
    """Every owner with its events, each owner once; the same order of owners for the same owners and ``buckets``.

    ``rows`` may mix partitions, each in offset order. About ``max_bytes`` of them are held in memory; the others are spilled
    into ``spill_dir``, the system's folder for temporary files unless given. Raises OSError when that is full.
    """
    if buckets < 1 or max_bytes < 0:
        raise ValueError("bucketed: expected at least one bucket, and max_bytes of 0 or more")
    gathering = _Gathering(buckets, spill_dir)
    try:
        for some in rows:
            gathering.add(some, owners_of(some))
            if gathering.bytes > max_bytes:
                gathering.spill()
        for bucket in range(buckets):
            yield from sorted(gathering.take(bucket).items())
    finally:
        gathering.close()


class _Gathering:
    """Rows by bucket and owner, in memory and in the file; within an owner in the order they came."""

    def __init__(self, buckets: int, spill_dir: Path | None) -> None:
        self.bytes = 0
        self._held: list[_Held] = [{} for _ in range(buckets)]
        self._spill_dir = spill_dir
        self._file: IO[bytes] | None = None
        self._frames: list[list[tuple[int, int]]] = [[] for _ in range(buckets)]

    def add(self, rows: Rows, owners: Sequence[str | None]) -> None:
        mine: dict[str, list[int]] = {}
        for index, owner in enumerate(owners):
            if owner is not None:
                try:
                    mine[owner].append(index)
                except KeyError:
                    mine[owner] = [index]
        for owner, indexes in mine.items():
            self._held[self._bucket(owner)].setdefault(owner, []).append((rows, indexes))
        self.bytes += _ROW_BYTES * len(rows) + sum(map(len, rows.data)) + (sum(map(len, rows.values)) if rows.values is not None else 0)

    def spill(self) -> None:
        """Writes all that is held, a frame per bucket."""
        if self._file is None:
            self._file = TemporaryFile(dir=self._spill_dir, buffering=1 << 20)  # noqa: SIM115  # closed by close()
        self._file.seek(0, 2)
        for bucket, held in enumerate(self._held):
            if held:
                start = self._file.tell()
                frame = _encode([_spilled(owner, rows, indexes) for owner, pieces in held.items() for rows, indexes in pieces])
                self._file.write(frame)
                self._frames[bucket].append((start, len(frame)))
                held.clear()
        self.bytes = 0

    def take(self, bucket: int) -> dict[str, OwnerRows]:
        """The owners of a bucket, which is forgotten; what was spilled came before what is held."""
        found: dict[str, dict[TopicPartition, list[Rows]]] = {}
        for start, length in self._frames[bucket]:
            for owner, rows in map(_restored, _decode(self._read(start, length))):
                found.setdefault(owner, {}).setdefault(rows.topic_partition, []).append(rows)
        for owner, pieces in self._held[bucket].items():
            for rows, indexes in pieces:
                found.setdefault(owner, {}).setdefault(rows.topic_partition, []).append(take_rows(rows, indexes))
        self._held[bucket], self._frames[bucket] = {}, []
        return {owner: {partition: concat_rows(some) for partition, some in own.items()} for owner, own in found.items()}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._held = []

    def _bucket(self, owner: str) -> int:
        # Not hash(): that differs from process to process, and with it the order of owners.
        return crc32(owner.encode("utf-8", "surrogatepass")) % len(self._held)

    def _read(self, start: int, length: int) -> bytes:
        if self._file is None:
            return b""
        self._file.seek(start)
        return self._file.read(length)


def _spilled(owner: str, rows: Rows, indexes: Sequence[int]) -> _Spilled:
    subjects = [rows.subjects[index] for index in indexes]
    columns: list[Any] = [
        None if column is None else [column[index] for index in indexes]
        for column in (rows.offsets, rows.times_us, rows.types, rows.versions, rows.data, rows.agents, rows.ids, rows.values)
    ]
    return (owner, rows.topic, rows.partition, [*columns, [one.aggregatetype for one in subjects], [one.aggregateid for one in subjects]])


def _restored(spilled: _Spilled) -> tuple[str, Rows]:
    owner, topic, partition, (offsets, times_us, types, versions, data, agents, ids, values, kinds, names) = spilled
    return owner, Rows(topic, partition, offsets, times_us, types, versions, list(map(Subject, kinds, names)), data, agents, ids, values)
