"""Starts that wait for their ends, in one partition: how long something took, by the event times of both. Pure.

Everything is decided record by record, in the order of the log, so a replay a day later finds what was found live.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.spec import MetricSpec, Pair, read_by
from tallyroll.ports import OpenPair

MAX_OPEN: Final = 100_000  # per partition, some 20 MB; more have a publisher that never reports the end
MAX_ID_LENGTH: Final = 256  # a longer text is no id, and would make the bound in entries none in bytes
EXPIRY_US: Final = 24 * 3_600 * 1_000_000


class PairKind(NamedTuple):
    """One way to pair: ``name`` is what the store knows it by; one kind's end does not close another kind's start."""

    name: str
    start: str
    ends: tuple[str, ...]
    by: str


def pair_kinds(specs: Iterable[MetricSpec]) -> tuple[PairKind, ...]:
    """Every kind that the specs ask for, once."""
    return tuple(dict.fromkeys(kind_of(pair, spec) for spec in specs for pair in pairs_of(spec)))


def pairs_of(spec: MetricSpec) -> Iterator[Pair]:
    """The pairs in a spec's value."""
    yield from (value for value in read_by(spec.value) if isinstance(value, Pair))


def kind_of(pair: Pair, spec: MetricSpec) -> PairKind:
    """The kind of a pair in a spec: the spec says which events are ends."""
    return PairKind(f"{pair.start}>{','.join(spec.event_types)}@{pair.by}", pair.start, spec.event_types, pair.by)


class PairChanges(NamedTuple):
    """What is to be stored of one partition's pairs; ``touched`` by kind, for ``give_back``."""

    opened: Sequence[OpenPair]
    closed: Sequence[tuple[str, str]]
    touched: Mapping[str, set[str]]


class Steps(NamedTuple):
    """Events that start or end something, in the order of the log in each partition, as columns of equal length.

    ``rows`` of the run, ascending; ``of`` which partition, ``ids`` places in a list of names; times in µs, watermarks the
    partition's largest event time so far, this event's included.
    """

    rows: NDArray[np.int32]
    of: NDArray[np.intp]
    ids: NDArray[np.int32]
    starts: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    times_us: NDArray[np.int64]
    watermarks_us: NDArray[np.int64]

    def only(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Steps:
        """Some of them, or in another order."""
        return Steps._make(column[which] for column in self)


Step = tuple[int, bool, bool, str, int, int]
"""One event: its row, whether it is an end, whether a start, the id, its event time, and the partition's largest so far (this
one's included), both µs. A plain tuple: a named one would cost as much as all that is done with it."""


_Followed = tuple[list[int], NDArray[np.int32], NDArray[np.int64]]
"""By partition how many starts expired or had to go; the rows of ends that met their start, and how long it took."""


class _OfKind:
    """The open starts of one kind, and how they differ from what is stored."""

    __slots__ = ("heap", "limit", "open", "stored", "touched")

    def __init__(self, limit: int) -> None:
        self.open: dict[str, tuple[int, int]] = {}  # event time, and the partition's largest when it came, both µs
        self.stored: set[str] = set()
        self.touched: set[str] = set()  # since the last store
        self.limit = limit
        self.heap: list[tuple[int, str]] | None = None  # by how long they have waited, made when the limit is met

    def follow(self, steps: Iterable[Step], rows: list[int], took_us: list[int]) -> int:
        """Opens and closes; adds what has met its start. Gives how many starts expired or had to go."""
        opened, limit, lost = self.open, self.limit, 0
        for row, ends, starts, id_, time_us, watermark_us in steps:
            if ends:
                found = opened.pop(id_, None)
                if found is not None:
                    started, since = found
                    if watermark_us - since > EXPIRY_US:
                        lost += 1
                    else:
                        rows.append(row)
                        took_us.append(time_us - started)
            if starts:
                opened[id_] = (time_us, watermark_us)
                if self.heap is not None:
                    heapq.heappush(self.heap, (watermark_us, id_))
                if len(opened) > limit:
                    self._shrink()
                    lost += 1
        return lost

    def has_room(self, starts: int) -> bool:
        """Whether so many may be opened without that any has to go."""
        return len(self.open) + starts <= self.limit

    def expire(self, before_us: int) -> int:
        """Forgets starts that have waited since before that time; how many."""
        old = [id_ for id_, (_, since) in self.open.items() if since < before_us]
        for id_ in old:
            del self.open[id_]
        self.touched.update(old)
        return len(old)

    def _shrink(self) -> None:
        """Who has waited longest goes; of several the one whose id sorts first, so that a restart forgets the same."""
        if self.heap is None or len(self.heap) > 2 * len(self.open):
            self.heap = [(since, id_) for id_, (_, since) in self.open.items()]
            heapq.heapify(self.heap)
        while True:
            since, id_ = heapq.heappop(self.heap)
            if id_ in self.open and self.open[id_][1] == since:
                del self.open[id_]
                self.touched.add(id_)
                return


class OpenPairs:
    """The open starts of one partition: at most MAX_OPEN, who has waited longest goes first, and nobody waits for more than a day.

    They wait in event time of the partition, from its newest event when the start came: a history that comes behind newer
    events is paired as well.
    The room is shared out evenly among the kinds. Of two starts with one id the newer counts.
    Not promised: to notice an end that was published under another key, in another partition.
    """

    def __init__(self, kinds: Sequence[PairKind], stored: Iterable[OpenPair] = (), *, max_open: int = MAX_OPEN) -> None:
        limit = max(1, max_open // max(1, len(kinds)))
        self._kinds = {kind.name: _OfKind(limit) for kind in kinds}
        self._swept_us: int | None = None
        self.expired = 0
        for pair in stored:
            if pair.pair in self._kinds:
                self._kinds[pair.pair].open[pair.id] = (pair.start_us, pair.since_us)
                self._kinds[pair.pair].stored.add(pair.id)

    def __len__(self) -> int:
        return sum(len(kind.open) for kind in self._kinds.values())

    def of_kind(self, name: str) -> _OfKind:
        """The starts of one kind; for ``follow``."""
        return self._kinds[name]

    def sweep(self, watermark_us: int) -> None:
        """Forgets what has expired. Only for memory and store: ``take`` judges each start when its end comes."""
        if self._swept_us is not None and watermark_us - self._swept_us < EXPIRY_US // 96:
            return  # looking at all of them a few times an hour is enough
        self._swept_us = watermark_us
        self.expired += sum(kind.expire(watermark_us - EXPIRY_US) for kind in self._kinds.values())

    def take_expired(self) -> int:
        """How many have expired or had to go since the last call."""
        expired, self.expired = self.expired, 0
        return expired

    def take_changes(self) -> PairChanges:
        """What is to be stored: what was opened and closed since the last call."""
        opened, closed, touched = [], [], {}
        for name, kind in self._kinds.items():
            opened += [OpenPair(name, id_, *kind.open[id_]) for id_ in kind.touched & kind.open.keys()]
            gone = (kind.touched & kind.stored) - kind.open.keys()
            closed += [(name, id_) for id_ in gone]
            kind.stored -= gone
            kind.stored |= kind.touched & kind.open.keys()
            touched[name], kind.touched = kind.touched, set()
        return PairChanges(opened, closed, touched)

    def give_back(self, changes: PairChanges) -> None:
        """They could not be stored. What was opened in them counts as stored, so that its end is: to remove nothing does no harm."""
        for name, touched in changes.touched.items():
            self._kinds[name].touched |= touched
            self._kinds[name].stored |= touched


def follow(name: str, partitions: Sequence[OpenPairs], steps: Steps, names: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Follows the events of one kind; gives the rows of ends that met their start, ascending, and how many µs it took."""
    kinds = [one.of_kind(name) for one in partitions]
    opened = np.bincount(steps.of[steps.starts], minlength=len(kinds)).tolist()
    if all(kind.has_room(count) for kind, count in zip(kinds, opened, strict=True)):
        lost, rows, took_us = _follow_all(kinds, steps, names)
    else:
        lost, rows, took_us = _follow_each(kinds, steps, names)
    for one, count in zip(partitions, lost, strict=True):
        one.expired += count
    return rows, took_us


def _follow_each(kinds: Sequence[_OfKind], steps: Steps, names: Sequence[str]) -> _Followed:
    """One event after the other: which start has to go depends on what was open at that moment."""
    rows: list[int] = []
    took_us: list[int] = []
    lost = []
    for number, kind in enumerate(kinds):
        own = steps.only(steps.of == number)
        ids = [names[code] for code in own.ids.tolist()]
        kind.touched.update(ids)
        columns = own.rows.tolist(), own.ends.tolist(), own.starts.tolist(), ids, own.times_us.tolist(), own.watermarks_us.tolist()
        lost.append(kind.follow(zip(*columns, strict=True), rows, took_us))
    return lost, np.array(rows, np.int32), np.array(took_us, np.int64)


def _follow_all(kinds: Sequence[_OfKind], steps: Steps, names: Sequence[str]) -> _Followed:
    """All at once, as long as no start has to go: then events of other ids decide nothing, and those of one id stand together."""
    if not len(steps.rows):
        return [0] * len(kinds), np.empty(0, np.int32), np.empty(0, np.int64)
    steps = steps.only(np.argsort(steps.of * len(names) + steps.ids, kind="stable"))  # keeps the order of those of one id
    same = (steps.ids[1:] == steps.ids[:-1]) & (steps.of[1:] == steps.of[:-1])
    firsts, lasts = np.flatnonzero(np.append(True, ~same)), np.flatnonzero(np.append(~same, True))
    ends = np.flatnonzero(same & steps.starts[:-1] & steps.ends[1:]) + 1  # right behind a start of theirs
    took_us, waited_us = steps.times_us[ends] - steps.times_us[ends - 1], steps.watermarks_us[ends] - steps.watermarks_us[ends - 1]
    expired = waited_us > EXPIRY_US
    lost = np.bincount(steps.of[ends[expired]], minlength=len(kinds)).tolist()
    for number, code in zip(steps.of[firsts].tolist(), steps.ids[firsts].tolist(), strict=True):
        kinds[number].touched.add(names[code])
    rows, took = steps.rows[ends[~expired]], took_us[~expired]

    older_rows, older_us = [], []
    earlier = steps.only(firsts[steps.ends[firsts]])
    told = earlier.of.tolist(), earlier.ids.tolist(), earlier.rows.tolist(), earlier.times_us.tolist(), earlier.watermarks_us.tolist()
    for number, code, row, time_us, watermark_us in zip(*told, strict=True):
        found = kinds[number].open.pop(names[code], None)
        if found is not None:
            started, since = found
            if watermark_us - since > EXPIRY_US:
                lost[number] += 1
            else:
                older_rows.append(row)
                older_us.append(time_us - started)
    ended = firsts[~steps.ends[firsts] & ~steps.starts[lasts]]  # what was open before was begun anew, and that has ended
    for number, code in zip(steps.of[ended].tolist(), steps.ids[ended].tolist(), strict=True):
        kinds[number].open.pop(names[code], None)
    left = steps.only(lasts[steps.starts[lasts]])
    told_left = left.of.tolist(), left.ids.tolist(), left.times_us.tolist(), left.watermarks_us.tolist()
    for number, code, time_us, watermark_us in zip(*told_left, strict=True):
        kinds[number].open[names[code]] = (time_us, watermark_us)
        kinds[number].heap = None
    rows, took = np.append(rows, np.array(older_rows, np.int32)), np.append(took, np.array(older_us, np.int64))
    order = np.argsort(rows)
    return lost, rows[order], took[order]
