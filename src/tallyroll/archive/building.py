"""One segment in the making: a few thousand records at a time, so that they are looked at while they are at hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tallyroll.archive.checks import Checks
from tallyroll.archive.records import Subjects
from tallyroll.archive.segment import (
    COLUMNS,
    FOLDED,
    GROUP_ROWS,
    LOOKED_UP,
    PIECE_ROWS,
    PROJECTED,
    SEQUENCE,
    Digest,
    Layout,
    SealedHead,
    cells_of,
    decode_sealed,
    footer_of,
    told_by,
)
from tallyroll.errors import Undecodable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Judged, Segment, SegmentCodec, SegmentColumn, SegmentWriter
from tallyroll.replay.projection import Projection

_PIECE: Final = 1_024  # records: their objects stay in the cache of the processor; with 8,192 this pass took a quarter longer


class Build:
    """Everything that is made of a segment's records, added in offset order: digest, checks, places, and columns for the file.

    Without a codec no file is made. A payload that cannot become columns means that none of the segment does.
    """

    def __init__(self, previous: str, checks: Checks, projection: Projection | None, codec: SegmentCodec | None) -> None:
        self.previous = previous
        self.checks = checks
        self.layout = Layout()
        self.records = 0
        self.raw_bytes = 0
        self.first_us: int | None = None
        self.last_us: int | None = None
        self._digest = Digest(previous)
        self._projection = projection
        self._intact = projection is not None
        self._subjects = Subjects()
        self._projected = [_column(name, whole) for name, whole in projection.columns.items()] if projection is not None else []
        self._writer: SegmentWriter | None = codec.writer([*COLUMNS, *self._projected]) if codec is not None else None

    @property
    def projection(self) -> str:
        """The id of the projection whose columns there are; empty if there are none."""
        return self._projection.id if self._projection is not None and self._intact else ""

    def digest(self, partition: TopicPartition, base: int, following: int) -> str:
        """The digest of a segment with these bounds; ask once."""
        return self._digest.hex(partition, base, following)

    def add(self, pieces: Iterable[Sequence[Judged]]) -> None:
        """Takes the next records."""
        for piece in pieces:
            for start in range(0, len(piece), _PIECE):
                self._add(piece[start : start + _PIECE])

    def file(self, partition: TopicPartition, segment: Segment) -> tuple[bytes, NDArray[np.intp]]:
        """The content of the file, and the order of its rows."""
        order = self.layout.order()
        if self._writer is None:
            return b"", order
        columns = [*COLUMNS, *(self._projected if self._intact else ())]
        names = [column.name for column in columns]
        folded = [*FOLDED, *(column.name for column in self._projected)] if self._intact else ()
        content = self._writer.finish(
            names,
            order,
            footer_of(partition, segment),
            group_rows=GROUP_ROWS,
            folded=folded,
            folded_order=self.layout.folded_order() if folded else None,
            looked_up=LOOKED_UP,
            piece_rows=PIECE_ROWS,
        )
        return content, order

    def _add(self, records: Sequence[Judged]) -> None:
        heads = [*map(decode_sealed, records)]
        told = [*map(told_by, heads)]
        self._digest.add(records)
        self.checks.read(records, heads)
        self.layout.add(records, [one[SEQUENCE] for one in told])
        self.records += len(records)
        self.raw_bytes += sum(len(one.value or b"") + len(one.key or b"") for one in records)
        times = [one.time_us for one in records if one.time_us is not None and one.verdict == "first"]
        if times:
            self.first_us = min(times) if self.first_us is None else min(self.first_us, *times)
            self.last_us = max(times) if self.last_us is None else max(self.last_us, *times)
        if self._writer is not None:
            self._write(self._writer, records, heads, cells_of(records, told))

    def _write(
        self,
        writer: SegmentWriter,
        records: Sequence[Judged],
        heads: Sequence[SealedHead | Undecodable],
        cells: Sequence[Iterable[object]],
    ) -> None:
        values = self._values(records, heads)
        if values is not None:
            try:
                writer.add([*cells, *values])
            except OverflowError:  # a value of somebody's own view, beyond 64 bits
                values = None
        if values is None:
            self._intact = False
            writer.add([*cells, *([None] * len(records) for _ in self._projected)])

    def _values(self, records: Sequence[Judged], heads: Sequence[SealedHead | Undecodable]) -> Sequence[Sequence[Any]] | None:
        projection = self._projection
        if projection is None or not self._intact:
            return None
        nothing, taken = (None,) * len(projection.columns), []
        for record, head in zip(records, heads, strict=True):
            if isinstance(head, Undecodable) or record.verdict != "first":
                taken.append(nothing)
                continue
            values = projection.take(head.type, head.schemaversion, head.data, self._subjects.of(head), record.time_us or 0)
            # Another agent than the record names is an upcaster's word; columns would contradict the locator.
            if values is None or values[0] != record.agent:
                return None
            taken.append(values[1:])
        return [*zip(*taken, strict=True)]


def _column(name: str, whole: bool) -> SegmentColumn:  # noqa: FBT001  # as the projection says it
    return SegmentColumn(f"{PROJECTED}{name}", "int" if whole else "word")
