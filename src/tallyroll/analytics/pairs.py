"""Starts that wait for their ends, in one partition: how long something took, by the event times of both. Pure.

Everything is decided record by record, in the order of the log, so a replay a day later finds what was found live.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from tallyroll.analytics.spec import First, MetricSpec, Pair
from tallyroll.ports import OpenPair

MAX_OPEN: Final = 100_000  # per partition, some 20 MB; more have a publisher that never reports the end
_MAX_ID_LENGTH: Final = 256  # a longer text is no id, and would make the bound in entries none in bytes
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
    values = spec.value.of if isinstance(spec.value, First) else (spec.value,)
    yield from (value for value in values if isinstance(value, Pair))


def kind_of(pair: Pair, spec: MetricSpec) -> PairKind:
    """The kind of a pair in a spec: the spec says which events are ends."""
    return PairKind(f"{pair.start}>{','.join(spec.event_types)}@{pair.by}", pair.start, spec.event_types, pair.by)


Step = tuple[int, bool, bool, str | None, int, int]
"""One event: its row, whether it is an end, whether a start, the id, its event time, and the partition's largest so far (this
one's included), both µs. A plain tuple: a named one would cost as much as all that is done with it."""


class _OfKind:
    """The open starts of one kind, and how they differ from what is stored."""

    __slots__ = ("changed", "gone", "heap", "limit", "open")

    def __init__(self, limit: int) -> None:
        self.open: dict[str, int] = {}
        self.changed: dict[str, bool] = {}  # opened since the last store, and whether the store has an older start of that id
        self.gone: set[str] = set()  # the store has them, and they are closed
        self.limit = limit
        self.heap: list[tuple[int, str]] | None = None  # by age, made when the limit is met

    def start(self, id_: str, time_us: int) -> int:
        """Opens; how many others had to go for it."""
        self.changed[id_] = self.changed.get(id_, id_ in self.open or id_ in self.gone)
        self.gone.discard(id_)
        self.open[id_] = time_us
        if self.heap is not None:
            heapq.heappush(self.heap, (time_us, id_))
        return self._shrink() if len(self.open) > self.limit else 0

    def end(self, id_: str) -> int | None:
        """Closes; when it was opened, None if it was not."""
        started = self.open.pop(id_, None)
        if started is not None and self.changed.pop(id_, True):
            self.gone.add(id_)
        return started

    def expire(self, before_us: int) -> int:
        """Forgets starts before that time; how many."""
        old = [id_ for id_, started in self.open.items() if started < before_us]
        for id_ in old:
            self.end(id_)
        return len(old)

    def _shrink(self) -> int:
        """The oldest goes; of equally old ones the one whose id sorts first, so that a restart forgets the same."""
        if self.heap is None or len(self.heap) > 2 * len(self.open):
            self.heap = [(started, id_) for id_, started in self.open.items()]
            heapq.heapify(self.heap)
        while True:
            started, id_ = heapq.heappop(self.heap)
            if self.open.get(id_) == started:
                self.end(id_)
                return 1


class OpenPairs:
    """The open starts of one partition: at most MAX_OPEN, the oldest out first, none older than a day of event time.

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
                self._kinds[pair.pair].open[pair.id] = pair.start_us

    def __len__(self) -> int:
        return sum(len(kind.open) for kind in self._kinds.values())

    def take(self, name: str, steps: Iterable[Step], rows: list[int], took_us: list[int]) -> None:
        """Follows the events of one kind; adds the rows of ends that met their start, and how long it took."""
        kind = self._kinds[name]
        for row, ends, starts, id_, time_us, watermark_us in steps:
            if not id_ or len(id_) > _MAX_ID_LENGTH:
                continue
            if ends:
                started = kind.end(id_)
                if started is not None and watermark_us - started > EXPIRY_US:
                    self.expired += 1
                elif started is not None:
                    rows.append(row)
                    took_us.append(time_us - started)
            if starts:
                self.expired += kind.start(id_, time_us)

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

    def changes(self) -> tuple[list[OpenPair], list[tuple[str, str]]]:
        """What is to be stored: opened and closed since ``stored``."""
        opened = [OpenPair(name, id_, kind.open[id_]) for name, kind in self._kinds.items() for id_ in kind.changed]
        closed = [(name, id_) for name, kind in self._kinds.items() for id_ in sorted(kind.gone)]
        return opened, closed

    def stored(self) -> None:
        """The changes are in the store."""
        for kind in self._kinds.values():
            kind.changed.clear()
            kind.gone.clear()
