"""The currency between log, loop and folds: one partition's records in offset order, as columns.

Raw bytes are kept as read. Decoded views are made when first asked for, once, and shared by every follower. They live as long as
the batch does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Final, Protocol, TypeVar, cast

from tallyroll.errors import EventError, Undecodable
from tallyroll.events.codec import Head, decode, decode_heads, times_of
from tallyroll.events.event import AgentEvent
from tallyroll.events.links import Told
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.repeats import Copy, Counting, RepeatFilter

Headers = Sequence[tuple[str, bytes | None]]
_NO_HEADERS: Final[Headers] = ()
T = TypeVar("T")


class Reader(Protocol[T]):
    """Makes something of a batch that several followers ask for. Readers that are equal make the same.

    Not promised: that what is made is anybody's own; it is only read.
    """

    def __hash__(self) -> int:
        """As equality has it: what one reader has made is what an equal one gets."""

    def read(self, batch: Batch) -> T:
        """What it is of a whole batch."""

    def part(self, made: T, of: Batch) -> T:
        """What it is of a part of that batch."""


class Batch:
    """Records of one partition, in offset order; offsets may have holes (transaction markers, retention).

    ``next_offset`` is the position after the batch, at or above the last offset + 1. ``timestamps_ms`` are the log's
    record timestamps, -1 where there is none; ``topic_partition`` is where the records lie. Columns have equal length, at
    least 1. Treat them as read-only.
    """

    __slots__ = (
        "_counting",
        "_headers",
        "_heads",
        "_made",
        "_readable",
        "_times_us",
        "_types",
        "_unreadable",
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
        self._unreadable: Mapping[int, Undecodable] | None = None
        self._readable: tuple[Sequence[Head], Sequence[int]] | None = None
        self._types: Sequence[str] | None = None
        self._times_us: Sequence[int | Undecodable] | None = None
        self._counting: Counting | None = None
        self._made: dict[Reader[Any], Any] = {}

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

    def unreadable(self) -> Mapping[int, Undecodable]:
        """By index those records that have no head, usually none, and why."""
        if self._unreadable is None:
            heads = self.heads()
            self._unreadable = {at: head for at, head in enumerate(heads) if isinstance(head, Undecodable)}
        return self._unreadable

    def readable(self) -> tuple[Sequence[Head], Sequence[int]]:
        """The heads of those records that have one, and their offsets."""
        if self._readable is None:
            heads, offsets = cast("Sequence[Head]", self.heads()), self.offsets
            if odd := self.unreadable():
                there = [at for at in range(len(self)) if at not in odd]
                heads, offsets = [heads[at] for at in there], [offsets[at] for at in there]
            self._readable = heads, offsets
        return self._readable

    def types(self) -> Sequence[str]:
        """Per record the type of its event, empty where it has no head."""
        if self._types is None:
            heads, _ = self.readable()
            if len(heads) == len(self):
                self._types = [head.type for head in heads]
            else:
                self._types = ["" if isinstance(head, Undecodable) else head.type for head in self.heads()]
        return self._types

    def times_us(self) -> Sequence[int | Undecodable]:
        """Per record its event time, microseconds since 1970, or why there is none."""
        if self._times_us is None:
            self._times_us = times_of(self.heads())
        return self._times_us

    def copies(self, repeats: RepeatFilter) -> Mapping[int, Copy]:
        """Which records do not count, by index, usually none; ``repeats`` remembers all that have a head."""
        heads, offsets = self.readable()
        if self._counting is None:
            self._counting = Counting.of(Told.by(heads))
        copies = repeats.copies_among(self._counting, offsets)
        if copies and (odd := self.unreadable()):
            places = [index for index in range(len(self)) if index not in odd]
            return {places[at]: kind for at, kind in copies.items()}
        return copies

    def made(self, reader: Reader[T]) -> T:
        """What the reader makes of the batch. Made once for all readers that are equal."""
        if reader not in self._made:
            self._made[reader] = reader.read(self)
        made: T = self._made[reader]
        return made

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
        # What had to be decoded; the rest is a look at each head. Own class.
        if self._heads is not None:
            part._heads = self._heads[start:stop]
        if self._times_us is not None:
            part._times_us = self._times_us[start:stop]
        part._made = {reader: reader.part(made, part) for reader, made in self._made.items()}
        return part

    def since(self, offset: int) -> Batch | None:
        """The part at or above ``offset``; None if there is none."""
        if self.offsets[0] >= offset:
            return self
        index = bisect_left(self.offsets, offset)
        return self.slice(index, len(self)) if index < len(self) else None
