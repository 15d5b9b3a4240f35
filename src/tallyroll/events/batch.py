"""The currency between log, loop and folds: one partition's records in offset order, as columns.

Raw bytes are kept as read. Decoded views are made when first asked for, once, and shared by every follower.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final

from tallyroll.errors import EventError, Undecodable
from tallyroll.events.codec import Head, decode, decode_heads
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import Position, TopicPartition

Headers = Sequence[tuple[str, bytes | None]]
_NO_HEADERS: Final[Headers] = ()


class Batch:
    """Records of one partition, in offset order; offsets may have holes (transaction markers, retention).

    ``next_offset`` is the position after the batch, at or above the last offset + 1. ``timestamps_ms`` are the log's
    record timestamps, -1 where there is none; ``topic_partition`` is where the records lie. Columns have equal length, at
    least 1. Treat them as read-only.
    """

    __slots__ = (
        "_headers",
        "_heads",
        "keys",
        "leader_epoch",
        "next_offset",
        "offsets",
        "partition",
        "timestamps_ms",
        "topic",
        "topic_partition",
        "values",
    )

    def __init__(  # noqa: PLR0913  # one argument per column
        self,
        topic: str,
        partition: int,
        *,
        offsets: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Headers] | None = None,
        next_offset: int | None = None,
        leader_epoch: int | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.topic_partition = TopicPartition(topic, partition)
        self.offsets = offsets
        self.keys = keys
        self.values = values
        self.timestamps_ms = timestamps_ms
        self._headers = headers
        self.next_offset = offsets[-1] + 1 if next_offset is None else next_offset
        self.leader_epoch = leader_epoch
        self._heads: list[Head | Undecodable] | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        return f"Batch({self.topic}/{self.partition}, {self.offsets[0]}..{self.offsets[-1]}, {len(self)} records)"

    def position(self, index: int) -> Position:
        """The position of one record."""
        return Position(self.topic, self.partition, self.offsets[index])

    def positions(self) -> list[Position]:
        """The position of each record."""
        return list(map(Position, repeat(self.topic), repeat(self.partition), self.offsets))

    def about(self, index: int) -> dict[str, str | int]:
        """The ids of one record, for a line of a log: its position, and those of its event where it can be read."""
        ids: dict[str, str | int] = {"topic": self.topic, "partition": self.partition, "offset": self.offsets[index]}
        try:
            event = self.event(index)
        except EventError:
            return ids
        ids["event_id"] = event.event_id
        if event.metadata.trace_id is not None:
            ids["trace_id"] = event.metadata.trace_id
        return ids

    def headers(self, index: int) -> Headers:
        """The headers of one record, in order."""
        return self._headers[index] if self._headers is not None else _NO_HEADERS

    def each_headers(self) -> Iterable[Headers]:
        """The headers of every record; cheaper than one by one."""
        return repeat(_NO_HEADERS, len(self)) if self._headers is None else self._headers

    @property
    def has_heads(self) -> bool:
        """Whether somebody has asked for ``heads`` already, so that they cost nothing."""
        return self._heads is not None

    def heads(self) -> Sequence[Head | Undecodable]:
        """Per record the decoded head, or why there is none. Decoded once."""
        if self._heads is None:
            self._heads = decode_heads(self.values)
        return self._heads

    def readable(self) -> tuple[list[Head], Sequence[int]]:
        """The heads of those records that have one, and their offsets."""
        heads = [head for head in self.heads() if not isinstance(head, Undecodable)]
        if len(heads) == len(self):
            return heads, self.offsets
        return heads, [offset for offset, head in zip(self.offsets, self.heads(), strict=True) if not isinstance(head, Undecodable)]

    def event(self, index: int) -> AgentEvent:
        """One record as an event; made anew at each call. Raises Undecodable."""
        return decode(self.values[index])

    def slice(self, start: int, stop: int) -> Batch:
        """The records with indexes ``start`` to ``stop`` (exclusive), at least one; shares what has been decoded."""
        part = Batch(
            self.topic,
            self.partition,
            offsets=self.offsets[start:stop],
            keys=self.keys[start:stop],
            values=self.values[start:stop],
            timestamps_ms=self.timestamps_ms[start:stop],
            headers=self._headers[start:stop] if self._headers is not None else None,
            next_offset=self.next_offset if stop >= len(self) else self.offsets[stop],
            leader_epoch=self.leader_epoch,
        )
        if self._heads is not None:
            part._heads = self._heads[start:stop]  # own class
        return part

    def since(self, offset: int) -> Batch | None:
        """The part at or above ``offset``; None if there is none."""
        if self.offsets[0] >= offset:
            return self
        index = bisect_left(self.offsets, offset)
        return self.slice(index, len(self)) if index < len(self) else None
