"""Segments turned back into rows, columns and raw records, in offset order. Blocks on the file; knows no index."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tallyroll.archive.segment import PROJECTED
from tallyroll.errors import SegmentDamaged
from tallyroll.events.codec import decode_head
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Columns, IntColumn, Rows, Subject, TextColumn
from tallyroll.ports import Judged, OpenSegment, Segment

Picked = NDArray[np.intp]
_JUDGED = ("offset", "time_us", "verdict")
_ROW = (*_JUDGED, "type", "version", "aggregate", "aggregate_type", "agent", "data")
_RAW = ("offset", "timestamp_ms", "key", "own_key", "head", "data", "tail", "headers", "time_us", "agent", "aggregate", "verdict", "reason")


class SegmentReader:
    """One open segment of a partition. Raises SegmentDamaged."""

    def __init__(self, partition: TopicPartition, segment: Segment, opened: OpenSegment) -> None:
        self._partition = partition
        self._segment = segment
        self._opened = opened

    def rows(  # noqa: PLR0913  # what is wanted, and how far it can be pushed down
        self,
        start: int,
        end: int,
        *,
        first_row: int = 0,
        stop_row: int | None = None,
        types: Collection[str] | None = None,
        until_us: int | None = None,
        whole: bool = False,
    ) -> Rows | None:
        """The first copies among some rows that lie in the span; None if there are none."""
        names = (*_ROW, "event_id", "head", "tail") if whole else _ROW
        columns = dict(zip(names, self._read(names, first_row, stop_row), strict=True))
        kinds = _words(columns["type"])
        picked = _first_copies(columns, start, end, until_us)
        if types is not None:
            wanted = [code for code, word in enumerate(kinds.words) if word in types]
            picked = picked[np.isin(kinds.codes[picked], wanted)]
        if not len(picked):
            return None
        data = _objects(columns["data"])[picked].tolist()
        if None in data:
            self._decode_missing(data, picked, first_row, stop_row)
        rows = Rows(
            *self._partition,
            offsets=_ints(columns["offset"])[picked].tolist(),
            times_us=_ints(columns["time_us"])[picked].tolist(),
            types=_texts(kinds, picked),
            versions=_texts(columns["version"], picked),
            subjects=_subjects(_words(columns["aggregate"]), _words(columns["aggregate_type"]), picked),
            data=data,
            agents=_texts(columns["agent"], picked),
        )
        if not whole:
            return rows
        heads, tails = (_objects(columns[name])[picked].tolist() for name in ("head", "tail"))
        stored = _objects(columns["data"])[picked].tolist()
        ids = _objects(columns["event_id"])[picked].tolist()
        return _whole(rows, ids, [_joined(*pieces) or b"" for pieces in zip(heads, stored, tails, strict=True)])

    def columns(self, values: Collection[str]) -> Columns:
        """The first copies as columns. Raises ValueError for a value that was not kept."""
        projected = [f"{PROJECTED}{name}" for name in values]
        if lacking := set(projected) - set(self._opened.names):
            raise ValueError(f"segment {self._segment.name} has no columns {', '.join(sorted(lacking))}")
        names = [*_JUDGED, "type", "agent", "aggregate", *projected]
        columns = dict(zip(names, self._read(names), strict=True))
        picked = _first_copies(columns, self._segment.base, self._segment.next, None)
        return Columns(
            *self._partition,
            offsets=_ints(columns["offset"])[picked],
            times_us=_ints(columns["time_us"])[picked],
            types=_taken(columns["type"], picked),
            agents=_taken(columns["agent"], picked),
            aggregates=_taken(columns["aggregate"], picked),
            values={name: _taken(columns[f"{PROJECTED}{name}"], picked) for name in values},
        )

    def records(self, start: int, end: int) -> list[Judged]:
        """Every record of the span as it was in the log, with what was made of it."""
        columns = dict(zip(_RAW, self._read(_RAW), strict=True))
        offsets = _ints(columns["offset"])
        picked = np.flatnonzero((offsets >= start) & (offsets < end))
        picked = picked[np.argsort(offsets[picked])]
        aggregates = _texts(columns["aggregate"], picked)
        keys = _objects(columns["key"])[picked].tolist()
        own = _ints(columns["own_key"])[picked].tolist()
        heads, data, tails, headers = (_objects(columns[name])[picked].tolist() for name in ("head", "data", "tail", "headers"))
        timed = cast("IntColumn", columns["time_us"])
        times = [time if valid else None for time, valid in zip(timed.values[picked].tolist(), timed.valid[picked].tolist(), strict=True)]
        return [
            Judged(*one)
            for one in zip(
                offsets[picked].tolist(),
                _ints(columns["timestamp_ms"])[picked].tolist(),
                [key if mine else _key(aggregate) for key, mine, aggregate in zip(keys, own, aggregates, strict=True)],
                [_joined(*pieces) for pieces in zip(heads, data, tails, strict=True)],
                headers,
                times,
                _texts(columns["agent"], picked),
                aggregates,
                _texts(columns["verdict"], picked),
                [reason or "" for reason in _texts(columns["reason"], picked)],
                strict=True,
            )
        ]

    def _read(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> Sequence[Any]:
        try:
            return self._opened.read(names, start, stop)
        except (OSError, KeyError) as error:
            raise SegmentDamaged(f"{self._partition}/{self._segment.name}", str(error)) from error

    def _decode_missing(self, data: list[Any], picked: Picked, start: int, stop: int | None) -> None:
        """Fills in payloads that could not be kept as a text of their own."""
        [heads] = self._read(("head",), start, stop)
        for index, at in enumerate(picked.tolist()):
            if data[index] is None:
                data[index] = bytes(decode_head(heads[at]).data)


def _first_copies(columns: dict[str, Any], start: int, end: int, until_us: int | None) -> Picked:
    """The rows of first copies in the span, in offset order."""
    offsets, verdicts = _ints(columns["offset"]), _words(columns["verdict"])
    first = verdicts.words.index("first") if "first" in verdicts.words else -2
    chosen = (verdicts.codes == first) & (offsets >= start) & (offsets < end)
    if until_us is not None:
        chosen &= _ints(columns["time_us"]) <= until_us
    picked = np.flatnonzero(chosen)
    return picked[np.argsort(offsets[picked])]


def _ints(column: Any) -> NDArray[np.int64]:  # noqa: ANN401  # a column of that kind, as its name says
    return cast("IntColumn", column).values


def _words(column: Any) -> TextColumn:  # noqa: ANN401  # as above
    return cast("TextColumn", column)


def _objects(column: Any) -> NDArray[np.object_]:  # noqa: ANN401  # as above
    return cast("NDArray[np.object_]", column)


def _texts(column: Any, picked: Picked) -> list[Any]:  # noqa: ANN401  # as above
    words = np.array([*_words(column).words, None], dtype=object)  # the code -1 takes the last one
    texts: list[Any] = words[_words(column).codes[picked]].tolist()
    return texts


def _taken(column: IntColumn | TextColumn, picked: Picked) -> Any:  # noqa: ANN401  # the same kind of column
    if isinstance(column, TextColumn):
        return TextColumn(column.codes[picked], column.words)
    return IntColumn(column.values[picked], column.valid[picked])


def _subjects(aggregates: TextColumn, types: TextColumn, picked: Picked) -> list[Subject]:
    """One object per aggregate, shared by its rows. ``type:id`` alone would be ambiguous where a type holds a colon."""
    pairs = aggregates.codes[picked].astype(np.int64) * len(types.words) + types.codes[picked]
    found, where = np.unique(pairs, return_inverse=True)
    made = np.empty(len(found), dtype=object)
    for index, pair in enumerate(found.tolist()):
        aggregate, kind = divmod(pair, len(types.words))
        name = types.words[kind]
        made[index] = Subject(name, aggregates.words[aggregate][len(name) + 1 :])
    subjects: list[Subject] = made[where].tolist()
    return subjects


def _joined(head: bytes | None, data: bytes | None, tail: bytes | None) -> bytes | None:
    return head if head is None or data is None else b"".join((head, data, tail or b""))


def _key(aggregate: str | None) -> bytes | None:
    return None if aggregate is None else aggregate.encode()


def _whole(rows: Rows, ids: Sequence[str], values: Sequence[bytes]) -> Rows:
    return Rows(
        rows.topic,
        rows.partition,
        rows.offsets,
        rows.times_us,
        rows.types,
        rows.versions,
        rows.subjects,
        rows.data,
        rows.agents,
        ids,
        values,
    )
