"""What a segment is: its columns, its order, its digest, and how a raw record is taken apart and put together. Pure.

A value is kept as three texts that make it up byte for byte: ``data`` is the payload, ``head`` what stands before it,
``tail`` what follows. So payloads can be read alone, and a query sees them as JSON.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from struct import Struct
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tallyroll.errors import Undecodable
from tallyroll.events.codec import Head, named_by_subject
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Judged, Run, Segment, SegmentColumn

FORMAT: Final = "3"
_READABLE: Final = ("2", FORMAT)  # 1 had no columns for folds apart; 2 has none for look-ups, which then read whole groups
GROUP_ROWS: Final = 4_096
PIECE_ROWS: Final = 256  # what a look-up reads; a multiple of it is a group
GENESIS: Final = "0" * 64  # the digest before the first segment
_MAX_DIGITS: Final = 18  # 64 bits
_LATEST: Final = 2**63 - 1
_FRAME: Final = Struct(">qqqqq").pack

Ints = NDArray[np.int64]

COLUMNS: Final = (
    SegmentColumn("offset", "int"),
    SegmentColumn("timestamp_ms", "int"),
    SegmentColumn("time_us", "int"),
    SegmentColumn("agent", "word"),
    SegmentColumn("aggregate", "word"),
    SegmentColumn("aggregate_type", "word"),
    SegmentColumn("type", "word"),
    SegmentColumn("version", "word"),
    SegmentColumn("sequence", "int"),
    SegmentColumn("event_id", "text"),
    SegmentColumn("session", "word"),
    SegmentColumn("user_id", "word"),
    SegmentColumn("correlation_id", "word"),
    SegmentColumn("verdict", "word"),
    SegmentColumn("reason", "word"),
    SegmentColumn("key", "bytes"),
    SegmentColumn("own_key", "int"),
    SegmentColumn("headers", "bytes"),
    SegmentColumn("head", "bytes"),
    SegmentColumn("data", "json"),
    SegmentColumn("tail", "bytes"),
)
PROJECTED: Final = "value."
"""Before the names of columns that a fold's values fill."""
FOLDED: Final = ("offset", "time_us", "type", "agent", "aggregate")
"""What folds of columns read besides those; the last one only who does not fold by agent."""
LOOKED_UP: Final = ("offset", "time_us", "verdict", "type", "version", "aggregate", "aggregate_type", "agent", "data")
"""What a fold of one owner's rows reads."""


class SealedHead(Head, gc=False):
    """A head with the members that only queries ask for; of any type, since nobody has refused others."""

    userid: Any = None
    correlationid: Any = None


_decode: Final = msgspec.json.Decoder(SealedHead).decode


def decode_sealed(record: Judged) -> SealedHead | Undecodable:
    """The head of a record that was readable when it was judged, else why it was not."""
    if record.aggregate is None or record.value is None:
        return Undecodable(record.reason, "judged when it was archived")
    head = _decode(record.value)
    return head if head.aggregateid and head.aggregatetype else named_by_subject(head)


class Layout:
    """Where records, added in offset order, will lie in the file, and what finds them there."""

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._first: list[bool] = []
        self._times: list[int | None] = []
        self._sequences: list[int] = []
        self._agents: dict[str, int] = {"": 0}  # nobody: the empty text, which nobody is called
        self._aggregates: dict[str, int] = {"": 0}
        self._agent_of: list[int] = []
        self._aggregate_of: list[int] = []

    @property
    def agents(self) -> Collection[str]:
        """Everybody whose deed a record is; the empty text, too."""
        return self._agents.keys()

    @property
    def aggregates(self) -> Collection[str]:
        """The keys of all aggregates; the empty text, too."""
        return self._aggregates.keys()

    @property
    def busiest(self) -> int:
        """How many records the owner has that has most."""
        counts = [np.bincount(np.array(codes), minlength=1)[1:].max(initial=0) for codes in (self._agent_of, self._aggregate_of) if codes]
        return int(max(counts, default=0))

    def add(self, records: Sequence[Judged], sequences: Iterable[int | None]) -> None:
        """Takes the next records."""
        agents, aggregates = self._agents, self._aggregates
        self._offsets += [one.offset for one in records]
        self._first += [one.verdict == "first" for one in records]
        self._times += [one.time_us for one in records]
        self._sequences += [sequence or 0 for sequence in sequences]
        self._agent_of += [agents.setdefault(one.agent or "", len(agents)) for one in records]
        self._aggregate_of += [aggregates.setdefault(one.aggregate or "", len(aggregates)) for one in records]

    def order(self) -> NDArray[np.intp]:
        """Which record each row of the file is: sorted by agent, aggregate, sequence, offset; nobody first."""
        agents, aggregates = _ranked(self._agents, self._agent_of), _ranked(self._aggregates, self._aggregate_of)
        return np.lexsort((np.array(self._offsets), np.array(self._sequences), aggregates, agents))

    def folded_order(self) -> NDArray[np.intp]:
        """Which records are first copies, by agent and offset: as most folds want them."""
        order = np.lexsort((np.array(self._offsets), _ranked(self._agents, self._agent_of)))
        return order[np.array(self._first, np.bool_)[order]]

    def runs(self, order: NDArray[np.intp]) -> Iterator[Run]:
        """The locator: one run per agent, and one per aggregate and agent."""
        agents, aggregates = np.array(self._agent_of)[order], np.array(self._aggregate_of)[order]
        changes = agents[1:] != agents[:-1]
        yield from self._runs(order, changes, [word and f"@{word}" for word in self._agents], agents)
        yield from self._runs(order, changes | (aggregates[1:] != aggregates[:-1]), [*self._aggregates], aggregates)

    def _runs(self, order: NDArray[np.intp], changes: NDArray[np.bool_], keys: Sequence[str], codes: Ints) -> Iterator[Run]:
        starts = np.append(0, np.flatnonzero(changes) + 1)
        offsets = np.array(self._offsets)[order]
        low = np.array([_LATEST if time is None else time for time in self._times])[order]
        high = np.array([-_LATEST if time is None else time for time in self._times])[order]
        columns = (
            codes[starts],
            starts,
            np.diff(np.append(starts, len(codes))),
            np.minimum.reduceat(offsets, starts),
            np.maximum.reduceat(offsets, starts),
            np.minimum.reduceat(low, starts),
            np.maximum.reduceat(high, starts),
        )
        for code, row, rows, first, last, first_us, last_us in zip(*(column.tolist() for column in columns), strict=True):
            if keys[code]:
                yield Run(keys[code], row, rows, first, last, *((first_us, last_us) if first_us <= last_us else (None, None)))


def _ranked(words: Collection[str], codes: Sequence[int]) -> Ints:
    """Codes of words as numbers that sort like the words."""
    texts = [*words]
    ranks = np.empty(len(texts), np.int64)
    ranks[sorted(range(len(texts)), key=texts.__getitem__)] = np.arange(len(texts))
    return ranks[codes]


Told = tuple[Any, ...]
"""What a head adds to what was judged: the cells between ``aggregate`` and ``verdict``, then the payload."""

SEQUENCE: Final = 3  # where in Told


def cells_of(records: Sequence[Judged], told: Sequence[Told]) -> list[Iterable[object]]:
    """The cells of COLUMNS."""
    offsets, timestamps, keys, values, headers, times, agents, aggregates, verdicts, reasons = zip(*records, strict=True)
    *more, payloads = zip(*told, strict=True)
    starts = [*map(_start_of, values, payloads)]
    usual = [
        key is not None and aggregate is not None and key == aggregate.encode() for key, aggregate in zip(keys, aggregates, strict=True)
    ]
    return [
        offsets,
        timestamps,
        times,
        agents,
        aggregates,
        *more,
        verdicts,
        [reason or None for reason in reasons],
        [None if own else key for key, own in zip(keys, usual, strict=True)],
        [0 if own else 1 for own in usual],
        headers,
        [value if start is None else value[:start] for value, start in zip(values, starts, strict=True)],
        [None if start is None else data for data, start in zip(payloads, starts, strict=True)],
        [None if start is None else value[start + len(data) :] for value, data, start in zip(values, payloads, starts, strict=True)],
    ]


_UNTOLD: Final = (None,) * 9


def told_by(head: SealedHead | Undecodable) -> Told:
    """What a head adds to what was judged."""
    if isinstance(head, Undecodable):
        return _UNTOLD
    digits, user, correlation = head.sequence, head.userid, head.correlationid
    return (
        head.aggregatetype,
        head.type,
        head.schemaversion,
        int(digits) if digits.isdecimal() and len(digits) <= _MAX_DIGITS else None,
        head.id,
        head.chainsession or None,
        user if isinstance(user, str) else None,
        correlation if isinstance(correlation, str) else None,
        bytes(head.data),
    )


def _start_of(value: bytes | None, data: bytes | None) -> int | None:
    """Where the payload stands in a value; None where it cannot be kept as a text of its own, and all of the value is head."""
    if value is None or data is None:
        return None
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            return None
    start = value.find(data)
    return start if start >= 0 else None  # without a data member a fold reads an empty object, which stands nowhere


class Digest:
    """SHA-256 over the digest before, every record in offset order, and what the segment says of itself."""

    def __init__(self, previous: str) -> None:
        self._hash = sha256(previous.encode())
        self._records = 0

    def add(self, records: Sequence[Judged]) -> None:
        """Takes the next records: each by its offset, timestamp, key, value and headers, framed by their lengths."""
        self._records += len(records)
        for offset, timestamp_ms, key, value, headers, *_ in records:
            self._hash.update(_FRAME(offset, timestamp_ms, _length(key), _length(value), _length(headers)))
            self._hash.update(b"".join(filter(None, (key, value, headers))))

    def hex(self, partition: TopicPartition, base: int, following: int) -> str:
        """The digest of the segment with these bounds."""
        self._hash.update(msgspec.json.encode([*partition, base, following, self._records]))
        return self._hash.hexdigest()


def _length(content: bytes | None) -> int:
    return -1 if content is None else len(content)  # nothing is not empty


def name_of(base: int, following: int) -> str:
    """The name of the file with these offsets."""
    return f"{base:020d}-{following:020d}.parquet"


def footer_of(partition: TopicPartition, segment: Segment) -> dict[str, str]:
    """What a segment says of itself, so that the manifest can be made from the files alone."""
    told = {name: msgspec.json.encode(getattr(segment, name)).decode() for name in _TOLD}
    return {"format": FORMAT, "topic": partition.topic, "partition": str(partition.partition), **told}


_TOLD: Final = ("base", "next", "records", "first_us", "last_us", "raw_bytes", "previous", "digest", "projection")


def segment_from(name: str, file_bytes: int, partition: TopicPartition, footer: Mapping[str, str]) -> Segment:
    """The manifest's entry that a footer amounts to. Raises ValueError where it is not one, or another partition's."""
    if footer.get("format") not in _READABLE or (footer.get("topic"), footer.get("partition")) != (
        partition.topic,
        str(partition.partition),
    ):
        raise ValueError("the footer is of another format, or of another partition")
    try:
        told = {name: msgspec.json.decode(footer[name]) for name in _TOLD}
        return msgspec.convert({"name": name, "file_bytes": file_bytes, **told}, Segment)
    except (KeyError, msgspec.MsgspecError):
        raise ValueError("the footer lacks what a segment says of itself") from None
