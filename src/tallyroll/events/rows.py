"""Records that were judged before, as columns: what the archive gives back to folds.

A ``Batch`` is what a log gives: raw records, repeats and garbage among them. ``Rows`` and ``Columns`` are what is left when
the copies were told from the first ones and the heads were decoded, once, when the records were archived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tallyroll.events.position import Position, TopicPartition

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Subject(msgspec.Struct, frozen=True, gc=False):
    """Whose event it is, as its record says: ``aggregatetype`` and ``aggregateid``. Shared by the rows of one aggregate."""

    aggregatetype: str
    aggregateid: str

    @property
    def key(self) -> str:
        """``type:id``."""
        return f"{self.aggregatetype}:{self.aggregateid}"


@dataclass(frozen=True, slots=True)
class Rows:
    """First copies of readable records of one partition, in offset order; columns of equal length, at least 1.

    ``times_us`` is event time, microseconds since 1970. ``data`` is the payload as JSON text, ``agents`` whose deed each event
    is. ``ids`` and ``values`` (the whole record) are None unless they were asked for.
    """

    topic: str
    partition: int
    offsets: Sequence[int]
    times_us: Sequence[int]
    types: Sequence[str]
    versions: Sequence[str]
    subjects: Sequence[Subject]
    data: Sequence[bytes]
    agents: Sequence[str | None]
    ids: Sequence[str] | None = None
    values: Sequence[bytes] | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def topic_partition(self) -> TopicPartition:
        """Where the records lie."""
        return TopicPartition(self.topic, self.partition)

    def position(self, index: int) -> Position:
        """The position of one record."""
        return Position(self.topic, self.partition, self.offsets[index])


class IntColumn(NamedTuple):
    """Integers, ``(n,) int64``, and which of them are there, ``(n,) bool``; the others are 0."""

    values: NDArray[np.int64]
    valid: NDArray[np.bool_]


class TextColumn(NamedTuple):
    """Text as codes, ``(n,) int32``, into ``words``, no two alike; -1 where there is none."""

    codes: NDArray[np.int32]
    words: Sequence[str]


@dataclass(frozen=True, slots=True)
class Columns:
    """As ``Rows``, with what a fold takes out of the payloads in place of the payloads, as arrays.

    Agents may follow one another in any order, each with its rows in offset order; or all rows are in offset order.

    ``agents``: whose deed an event is; ``aggregates``: the keys ``type:id``. ``values`` maps names of ``Value.column`` to
    what the payloads gave; members that an event type does not read are left empty.
    """

    topic: str
    partition: int
    offsets: NDArray[np.int64]
    times_us: NDArray[np.int64]
    types: TextColumn
    agents: TextColumn
    aggregates: TextColumn
    values: Mapping[str, IntColumn | TextColumn]

    def __len__(self) -> int:
        return len(self.offsets)
