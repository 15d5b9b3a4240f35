"""What a segment is: its columns, its order, its digest, and how a raw record is taken apart and put together. Pure.

A value is kept as three texts that make it up byte for byte: ``data`` is the payload, ``head`` what stands before it,
``tail`` what follows. So payloads can be read alone, and a query sees them as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from struct import Struct
from typing import Any, Final

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.events.codec import Head, named_by_subject
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Judged, Run, Segment, SegmentColumn

FORMAT: Final = "1"
GROUP_ROWS: Final = 4_096  # one group is what a look-up reads: 1.15 ms with six columns; half of it saved 0.25 ms and cost size
GENESIS: Final = "0" * 64  # the digest before the first segment
_MAX_DIGITS: Final = 18  # 64 bits
_FRAME: Final = Struct(">qqqqq").pack

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


class Table:
    """The records of a segment as columns, in offset order; ``order`` is how they will lie in the file."""

    def __init__(self, records: Sequence[Judged], heads: Sequence[SealedHead | Undecodable]) -> None:
        self._records = tuple(zip(*records, strict=True))
        self._told = tuple(zip(*map(_told, heads), strict=True))
        offsets, _, _, _, _, self._times, self._agents, self._aggregates, *_ = self._records
        self._offsets: Sequence[int] = offsets
        sequences = self._told[3]
        place = [
            (agent or "", aggregate or "", sequence or 0, offset)
            for agent, aggregate, sequence, offset in zip(self._agents, self._aggregates, sequences, offsets, strict=True)
        ]
        self.order = sorted(range(len(place)), key=place.__getitem__)

    def groups(self, projected: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
        """The cells of COLUMNS and then of the projected columns, a row group at a time."""
        offsets, timestamps, keys, values, headers, times, agents, aggregates, verdicts, reasons = self._records
        *told, payloads = self._told
        given = [offsets, timestamps, times, agents, aggregates, *told, verdicts]
        for start in range(0, len(self.order), GROUP_ROWS):
            chunk = self.order[start : start + GROUP_ROWS]
            usual = [keys[at] is not None and aggregates[at] is not None and keys[at] == aggregates[at].encode() for at in chunk]
            yield [
                *([column[at] for at in chunk] for column in given),
                [reasons[at] or None for at in chunk],
                [None if own else keys[at] for at, own in zip(chunk, usual, strict=True)],
                [0 if own else 1 for own in usual],
                [headers[at] for at in chunk],
                *zip(*(split(values[at], payloads[at]) for at in chunk), strict=True),
                *([column[at] for at in chunk] for column in projected),
            ]

    def runs(self) -> Iterator[Run]:
        """The locator: one run per agent, and one per aggregate and agent."""
        agents, aggregates, row = self._agents, self._aggregates, 0
        for agent, of_agent in groupby(self.order, key=agents.__getitem__):
            mine = list(of_agent)
            if agent is not None:
                yield self._run(f"@{agent}", row, mine)
            for aggregate, of_aggregate in groupby(mine, key=aggregates.__getitem__):
                its = list(of_aggregate)
                if aggregate is not None:
                    yield self._run(aggregate, row, its)
                row += len(its)

    def _run(self, key: str, row: int, of: Sequence[int]) -> Run:
        offsets = [self._offsets[at] for at in of]
        times = [time for at in of if (time := self._times[at]) is not None]
        return Run(key, row, len(of), min(offsets), max(offsets), min(times, default=None), max(times, default=None))


_UNTOLD: Final = (None,) * 9


def _told(head: SealedHead | Undecodable) -> tuple[Any, ...]:
    """What a head adds to what was judged, in the order of COLUMNS; then the payload."""
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


def split(value: bytes | None, data: bytes | None) -> tuple[bytes | None, str | None, bytes | None]:
    """A value as head, data and tail; all of it is head where the payload cannot be kept as a text of its own."""
    if value is None or data is None:
        return value, None, None
    start = value.find(data)
    if start < 0:
        return value, None, None  # no data member: a fold reads an empty object
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return value, None, None
    return value[:start], text, value[start + len(data) :]


def digest_of(previous: str, partition: TopicPartition, base: int, following: int, records: Sequence[Judged]) -> str:
    """SHA-256 in hex over the digest before, what the segment says of itself, and every record in offset order."""
    digest = sha256(previous.encode())
    digest.update(msgspec.json.encode([*partition, base, following, len(records)]))
    for offset, timestamp_ms, key, value, headers, *_ in records:
        digest.update(_FRAME(offset, timestamp_ms, _length(key), _length(value), _length(headers)))
        digest.update(b"".join(filter(None, (key, value, headers))))
    return digest.hexdigest()


def _length(content: bytes | None) -> int:
    return -1 if content is None else len(content)  # nothing is not empty


def raw_bytes_of(records: Sequence[Judged]) -> int:
    """The size of keys and values."""
    return sum(len(one.value or b"") + len(one.key or b"") for one in records)


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
    if footer.get("format") != FORMAT or (footer.get("topic"), footer.get("partition")) != (partition.topic, str(partition.partition)):
        raise ValueError("the footer is of another format, or of another partition")
    try:
        told = {name: msgspec.json.decode(footer[name]) for name in _TOLD}
        return msgspec.convert({"name": name, "file_bytes": file_bytes, **told}, Segment)
    except (KeyError, msgspec.MsgspecError):
        raise ValueError("the footer lacks what a segment says of itself") from None
