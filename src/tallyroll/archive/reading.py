"""Segments turned back into rows, columns and raw records, in offset order. Blocks on the file; knows no index."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tallyroll.archive.records import Subjects
from tallyroll.archive.segment import FOLDED, LOOKED_UP, PROJECTED
from tallyroll.errors import SegmentDamaged
from tallyroll.events.codec import decode_head
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Columns, IntColumn, Rows, Subject, TextColumn
from tallyroll.ports import Judged, OpenSegment, Segment
from tallyroll.replay.fields import INT_MAX
from tallyroll.replay.owned_rows import by_owner

Picked = NDArray[np.intp]
_PIECE = 1_024  # rows that become objects at a time: they stay in the cache until they are folded; with 8,192 it took an eighth longer
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
        by_agent: bool = False,
        agents: Callable[[str | None], bool] | None = None,
    ) -> Iterator[Rows]:
        """The first copies among some rows that lie in the span, in offset order, some at a time.

        ``by_agent``: agent by agent, each in offset order, which is how they lie in the file. ``agents``: of these only.
        All is read from the file when this returns; what follows only makes objects of it.
        """
        names = (*LOOKED_UP, "event_id", "head", "tail") if whole else LOOKED_UP
        columns = dict(zip(names, self._read(names, first_row, stop_row), strict=True))
        kinds = _words(columns["type"])
        picked = _first_copies(columns, start, end, until_us, by_agent=by_agent)
        if types is not None:
            wanted = [code for code, word in enumerate(kinds.words) if word in types]
            picked = picked[np.isin(kinds.codes[picked], wanted)]
        if agents is not None:
            deeds = _words(columns["agent"])
            picked = picked[np.array([agents(word) for word in (*deeds.words, None)])[deeds.codes[picked]]]
        return self._made(columns, picked, first_row, stop_row, whole=whole)

    def near_rows(self, start: int, end: int, *, first_row: int, stop_row: int, until_us: int | None = None) -> Iterator[Rows]:
        """As ``rows``, for a few of them; reads little else where the file was made for it."""
        if not self._opened.has_pieces:
            yield from self.rows(start, end, first_row=first_row, stop_row=stop_row, until_us=until_us)
            return
        offsets, times, verdicts, *texts = self._look_up(LOOKED_UP, first_row, stop_row)
        latest = INT_MAX if until_us is None else until_us
        picked = sorted(
            (offset, at)
            for at, (offset, time_us, verdict) in enumerate(zip(offsets, times, verdicts, strict=True))
            if verdict == "first" and start <= offset < end and time_us <= latest
        )
        if not picked:
            return
        at = [place for _, place in picked]
        types, versions, aggregates, kinds, agents, data = ([column[place] for place in at] for column in texts)
        if None in data:
            data = self._with_missing(data, np.array(at, np.intp), first_row, stop_row)
        subjects = Subjects()
        named = [subjects.named(kind, key[len(kind) + 1 :]) for kind, key in zip(kinds, aggregates, strict=True)]
        yield Rows(*self._partition, [offset for offset, _ in picked], [times[place] for place in at], types, versions, named, data, agents)

    def finds(self, records: Sequence[Judged]) -> bool:
        """Whether ``near_rows`` gives these records of the segment: all of its first copies, each with its own payload."""
        found = {offset: data for rows in self._all_near() for offset, data in zip(rows.offsets, rows.data, strict=True)}
        counted = {one.offset: one.value or b"" for one in records if one.verdict == "first"}
        return found.keys() == counted.keys() and all(data == b"{}" or data in counted[offset] for offset, data in found.items())

    def _all_near(self) -> Iterator[Rows]:
        segment, rows = self._segment, self._opened.rows
        for first in range(0, rows, _PIECE):
            yield from self.near_rows(segment.base, segment.next, first_row=first, stop_row=min(first + _PIECE, rows))

    def _made(self, columns: dict[str, Any], picked: Picked, first_row: int, stop_row: int | None, *, whole: bool) -> Iterator[Rows]:
        subjects, of = _subjects(_words(columns["aggregate"]), _words(columns["aggregate_type"]), picked)
        texts = {name: _objects_of(columns[name]) for name in ("type", "version", "agent")}
        for start in range(0, len(picked), _PIECE):
            rows = picked[start : start + _PIECE]
            stored = columns["data"].take(rows)
            data = self._with_missing(stored, rows, first_row, stop_row) if None in stored else stored
            types, versions, agents = (texts[name][_words(columns[name]).codes[rows]].tolist() for name in texts)
            ids = values = None
            if whole:
                ids, heads, tails = (columns[name].take(rows) for name in ("event_id", "head", "tail"))
                values = [_joined(*pieces) or b"" for pieces in zip(heads, stored, tails, strict=True)]
            yield Rows(
                *self._partition,
                _ints(columns["offset"])[rows].tolist(),
                _ints(columns["time_us"])[rows].tolist(),
                types,
                versions,
                subjects[of[start : start + _PIECE]].tolist(),
                data,
                agents,
                ids,
                values,
            )

    def columns(self, values: Collection[str], *, aggregates: bool = True) -> Columns:
        """The first copies as columns, by agent and offset. Raises ValueError for a value that was not kept."""
        names = FOLDED if aggregates else FOLDED[:-1]
        projected = [f"{PROJECTED}{name}" for name in values]
        if lacking := set(projected) - set(self._opened.names):
            raise ValueError(f"segment {self._segment.name} has no columns {', '.join(sorted(lacking))}")
        try:
            columns = dict(zip((*names, *projected), self._opened.read_folded((*names, *projected)), strict=True))
        except OSError as error:
            raise SegmentDamaged(f"{self._partition}/{self._segment.name}", str(error)) from error
        return Columns(
            *self._partition,
            _ints(columns["offset"]),
            _ints(columns["time_us"]),
            _words(columns["type"]),
            _words(columns["agent"]),
            _words(columns["aggregate"]) if aggregates else TextColumn(np.full(len(_ints(columns["offset"])), -1, np.int32), ()),
            {name: cast("IntColumn | TextColumn", columns[f"{PROJECTED}{name}"]) for name in values},
        )

    def records(self, start: int, end: int) -> list[Judged]:
        """Every record of the span as it was in the log, with what was made of it."""
        columns = dict(zip(_RAW, self._read(_RAW), strict=True))
        offsets = _ints(columns["offset"])
        picked = np.flatnonzero((offsets >= start) & (offsets < end))
        picked = picked[np.argsort(offsets[picked])]
        aggregates = _texts(columns["aggregate"], picked)
        keys = columns["key"].take(picked)
        own = _ints(columns["own_key"])[picked].tolist()
        heads, data, tails, headers = (columns[name].take(picked) for name in ("head", "data", "tail", "headers"))
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

    def _look_up(self, names: Sequence[str], start: int, stop: int) -> Sequence[Sequence[Any]]:
        try:
            return self._opened.look_up(names, start, stop)
        except OSError as error:
            raise SegmentDamaged(f"{self._partition}/{self._segment.name}", str(error)) from error

    def _with_missing(self, data: Sequence[Any], rows: Picked, start: int, stop: int | None) -> list[Any]:
        """With payloads that could not be kept as a text of their own."""
        [heads] = self._read(("head",), start, stop)
        return [known if known is not None else bytes(decode_head(head).data) for known, head in zip(data, heads.take(rows), strict=True)]


def _first_copies(columns: dict[str, Any], start: int, end: int, until_us: int | None, *, by_agent: bool) -> Picked:
    """The rows of first copies in the span, in offset order, or agent by agent."""
    offsets, verdicts = _ints(columns["offset"]), _words(columns["verdict"])
    first = verdicts.words.index("first") if "first" in verdicts.words else -2
    chosen = (verdicts.codes == first) & (offsets >= start) & (offsets < end)
    if until_us is not None:
        chosen &= _ints(columns["time_us"]) <= until_us
    picked = np.flatnonzero(chosen)
    if by_agent and len(picked):
        return by_owner(picked, _words(columns["agent"]).codes + 1, offsets)  # 0: nobody
    return picked[np.argsort(offsets[picked])]


def _ints(column: Any) -> NDArray[np.int64]:  # noqa: ANN401  # a column of that kind, as its name says
    return cast("IntColumn", column).values


def _words(column: Any) -> TextColumn:  # noqa: ANN401  # as above
    return cast("TextColumn", column)


def _objects_of(column: TextColumn) -> NDArray[np.object_]:
    """What each code stands for; the code -1 takes the last one, None."""
    return np.array([*column.words, None], dtype=object)


def _texts(column: Any, picked: Picked) -> list[Any]:  # noqa: ANN401  # as above
    texts: list[Any] = _objects_of(_words(column))[_words(column).codes[picked]].tolist()
    return texts


def _subjects(aggregates: TextColumn, types: TextColumn, picked: Picked) -> tuple[NDArray[np.object_], Picked]:
    """One object per aggregate, shared by its rows, and which one each picked row has."""
    codes, kinds = aggregates.codes[picked], types.codes[picked]
    kind_of = np.full(len(aggregates.words), -1, np.int32)
    kind_of[codes] = kinds
    where: Picked = codes.astype(np.intp)
    simple = bool((kind_of[codes] == kinds).all())
    if simple:
        pairs = [(at, kind) for at, kind in enumerate(kind_of.tolist()) if kind >= 0]
    else:  # where a type holds a colon, ``type:id`` may mean two aggregates
        both, where = np.unique(codes.astype(np.int64) * len(types.words) + kinds, return_inverse=True)
        pairs = [divmod(pair, len(types.words)) for pair in both.tolist()]
        where = where.astype(np.intp)
    made = np.empty(max(len(pairs), len(aggregates.words)), dtype=object)
    for at, (aggregate, kind) in enumerate(pairs):
        name = types.words[kind]
        made[aggregate if simple else at] = Subject(name, aggregates.words[aggregate][len(name) + 1 :])
    return made, where


def _joined(head: bytes | None, data: bytes | None, tail: bytes | None) -> bytes | None:
    return head if head is None or data is None else b"".join((head, data, tail or b""))


def _key(aggregate: str | None) -> bytes | None:
    return None if aggregate is None else aggregate.encode()
