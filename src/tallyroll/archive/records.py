"""Raw records judged once, when they are archived: first copy, repeat, duplicate, conflict or poison, and whose deed they are. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, Final

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch, Headers
from tallyroll.events.codec import HEADERS, Head, decode_heads
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.rows import Rows, Subject
from tallyroll.ports import Judged, TailColumns, Verdict
from tallyroll.replay.judge import agents_of

_USUAL: Final = tuple(HEADERS)
_MAX_SUBJECTS: Final = 10_000  # shared only to save memory
# As Judged._make, without a step of Python for each record.
_judged: Final[Callable[[tuple[Any, ...]], Judged]] = partial(tuple.__new__, Judged)
_encode: Final = msgspec.json.Encoder().encode
_pack: Final = msgspec.msgpack.Encoder().encode
_BARE: Final = _pack(())
_unpack: Final[Callable[[bytes], Any]] = msgspec.msgpack.Decoder(list[tuple[str, bytes | None]]).decode


def judge(batch: Batch, repeats: RepeatFilter) -> list[Judged]:
    """Every record of the batch with its verdict; ``repeats`` learns from them as a fold's would.

    A record whose event time cannot be read is poison, but its number and id count as met.
    """
    copies, (heads, _) = batch.copies(repeats), batch.readable()
    agents: list[str | None] = agents_of(heads)
    aggregates: list[str | None] = [f"{head.aggregatetype}:{head.aggregateid}" for head in heads]
    for index in batch.unreadable():
        agents.insert(index, None)
        aggregates.insert(index, None)
    times_us: list[int | Undecodable | None] = [*batch.times_us()]
    verdicts: list[Verdict] = ["first"] * len(batch)
    reasons = [""] * len(batch)
    if Undecodable in set(map(type, times_us)):
        for index, time_us in enumerate(times_us):
            if isinstance(time_us, Undecodable):
                times_us[index], verdicts[index], reasons[index] = None, "poison", time_us.reason
    for index, kind in copies.items():
        verdicts[index], reasons[index] = kind, ""
    packed = [None if headers == HEADERS else pack_headers(headers) if headers else _BARE for headers in batch.each_headers()]
    columns = (batch.offsets, batch.timestamps_ms, batch.keys, batch.values, packed, times_us, agents, aggregates, verdicts, reasons)
    return [*map(_judged, zip(*columns, strict=True))]


def pack_headers(headers: Headers) -> bytes | None:
    """Headers as bytes, None for those that every event has."""
    return None if headers == HEADERS or tuple(headers) == _USUAL else _pack(headers)


def unpack_headers(packed: bytes | None) -> Headers:
    """The headers that were packed."""
    return HEADERS if packed is None else _unpack(packed)


def raw_batch(partition: TopicPartition, records: Sequence[Judged], *, next_offset: int | None = None) -> Batch:
    """The records as they were in the log."""
    return Batch(
        *partition,
        offsets=[one.offset for one in records],
        keys=[one.key for one in records],
        values=[one.value for one in records],
        timestamps_ms=[one.timestamp_ms for one in records],
        headers=[unpack_headers(one.headers) for one in records],
        next_offset=next_offset,
    )


class Subjects:
    """Whose event it is: the same object for the same aggregate, as long as there are not too many."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Subject] = {}

    def of(self, head: Head) -> Subject:
        """The subject of a record."""
        return self.named(head.aggregatetype, head.aggregateid)

    def named(self, kind: str, name: str) -> Subject:
        """The subject of that type and id."""
        key = (kind, name)
        subject = self._known.get(key)
        if subject is None:
            if len(self._known) >= _MAX_SUBJECTS:
                self._known.clear()
            subject = self._known[key] = Subject(*key)
        return subject


class TailPiece:
    """Some records that are not sealed, with their heads, which are decoded once for all who ask."""

    def __init__(self, tail: TailColumns) -> None:
        self.tail = tail

    @cached_property
    def heads(self) -> Sequence[Head | Undecodable]:
        """The head of each record, or why there is none."""
        return decode_heads(self.tail.values)

    def rows(
        self,
        partition: TopicPartition,
        *,
        types: Iterable[str] | None,
        until_us: int | None,
        whole: bool,
        agents: Callable[[str | None], bool] | None = None,
    ) -> Rows | None:
        """The first copies among the records; None if there are none."""
        offsets, values, times_us, deeds, odd = self.tail
        wanted = None if types is None else frozenset(types)
        kept: list[tuple[int, Head]] = [
            (at, head)
            for at, head in enumerate(self.heads)
            if not isinstance(head, Undecodable)
            and at not in odd
            and (until_us is None or (times_us[at] or 0) <= until_us)
            and (wanted is None or head.type in wanted)
            and (agents is None or agents(deeds[at]))
        ]
        if not kept:
            return None
        heads, at = [head for _, head in kept], [at for at, _ in kept]
        if len(at) == len(offsets):  # the usual case
            picked, times, whose = offsets, times_us, deeds
        else:
            picked, times, whose = ([column[one] for one in at] for column in (offsets, times_us, deeds))  # type: ignore[assignment]  # columns
        named = [(head.aggregatetype, head.aggregateid) for head in heads]
        subjects = {key: Subject(*key) for key in set(named)}
        return Rows(
            *partition,
            picked,
            times if all(times) else [time or 0 for time in times],  # type: ignore[arg-type]  # none is None then
            [head.type for head in heads],
            [head.schemaversion for head in heads],
            [subjects[key] for key in named],
            [bytes(head.data) for head in heads],
            whose,
            [head.id for head in heads] if whole else None,
            [values[one] or b"" for one in at] if whole else None,
        )
