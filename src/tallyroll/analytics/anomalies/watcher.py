"""What looks at panes when they close: steps the detectors, keeps baselines, says what began and what is over.

It reads merged panes from the store, from where it stopped, and everything that follows is stored in one transaction with
how far it has come. So it is the same in one process and in several, and after a crash it goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from tallyroll.analytics.anomalies.baseline import Baseline, Usual
from tallyroll.analytics.anomalies.detectors import SHIPPED_THRESHOLD, deviations_of
from tallyroll.analytics.anomalies.live import OLDEST_S
from tallyroll.analytics.anomalies.series import Kept, Scored, Series, SeriesName, words
from tallyroll.analytics.pane import Pane, load_row, merge_rows
from tallyroll.analytics.signal import Signal
from tallyroll.analytics.spec import MINUTE_S, MetricSpec
from tallyroll.errors import DocumentConflict
from tallyroll.events.names import OTHER_NAME
from tallyroll.ports import DocumentWrite, PaneRow, WindowStore

BASELINE: Final = "baseline"
DETECTOR: Final = "detector"
WATCHED: Final = "watched"
"""Kinds of documents: a baseline and a detector per series, and how far panes were watched."""

PANES: Final = "panes"
_THROUGH: Final = "through"
_MOST_SERIES: Final = 2_000  # with a detector, 72 KB each in memory
_MOST_BASELINES: Final = 10_000
_KEEP_EVERY: Final = 60  # panes between two records of one detector; each series in a minute of its own
_STEP_PANES: Final = 30  # in one transaction: what follows a pause is caught up in steps

_write_kept: Final = msgspec.msgpack.Encoder().encode
_read_kept: Final = msgspec.msgpack.Decoder(Kept).decode
_read_baseline: Final = msgspec.msgpack.Decoder(Baseline).decode

Panes = Mapping[SeriesName, Pane]


class _Minute(NamedTuple):
    start: int
    panes: Panes


class Found(NamedTuple):
    """What some closed panes gave: signals, and the documents that are stored with them."""

    signals: Sequence[Signal]
    documents: Sequence[DocumentWrite]


class Watcher:
    """Watches the series of all metrics that may alarm, at most 2,000, the busiest first.

    ``tell`` stores signals and documents together. For one process of a group at a time; a second one yields by
    DocumentConflict. ``usual`` is what live detection asks; other processes ``refresh`` it.
    Not promised: that a pane which late values changed is judged again.
    """

    def __init__(
        self,
        store: WindowStore,
        specs: Sequence[MetricSpec],
        tell: Callable[[Sequence[Signal], Sequence[DocumentWrite]], Awaitable[None]],
    ) -> None:
        self._store = store
        self._specs = {spec.name: spec for spec in specs if spec.bad != "none" and spec.pane_s == MINUTE_S}
        self._dimensions = sorted({dimension for spec in self._specs.values() for dimension in spec.per})
        self._tell = tell
        self._series: dict[SeriesName, Series] = {}
        self._baselines: dict[SeriesName, Baseline] = {}
        self._usual: dict[SeriesName, Usual | None] = {}
        self._through: int | None = None
        self._stored: bytes | None = None
        self._is_loaded = False

    def usual(self, name: SeriesName) -> Usual | None:
        """The baseline of a series as of the last closed pane that was seen; None while there is none."""
        if name not in self._usual:
            baseline = self._baselines.get(name)
            self._usual[name] = None if baseline is None else baseline.usual()
        return self._usual[name]

    @property
    def watched(self) -> int:
        """How many series have a detector."""
        return len(self._series)

    async def refresh(self) -> None:
        """Reads the baselines that another process keeps."""
        found = await self._store.documents(BASELINE)
        self._baselines = {_named(text): _read_baseline(data) for text, data in found.items()}
        self._usual = {}

    async def step(self, closed: int, *, now: int) -> int:
        """Judges panes that ended at or before ``closed`` and were not judged yet; how many there were.

        Both in seconds since 1970, ``closed`` in event time. Raises StoreUnavailable; then nothing was stored, and trying
        again is safe.
        """
        try:
            if not self._is_loaded:
                await self._load()
            through = await self._begin(closed) if self._through is None else self._through
            end = min(closed // MINUTE_S * MINUTE_S, through + _STEP_PANES * MINUTE_S)
            if end <= through:
                return 0
            minutes = [_Minute(start, await self._panes(start)) for start in range(through, end, MINUTE_S)]
            found = await asyncio.to_thread(self._judge, minutes, now)
            mark = msgspec.json.encode(end)
            position = DocumentWrite(WATCHED, _THROUGH, mark, guarded=True, expected=self._stored)
            await self._tell(found.signals, [position, *found.documents])
        except DocumentConflict:
            self._forget()  # somebody else has judged them
            return 0
        except BaseException:
            self._forget()  # what is in memory is ahead of what is stored
            raise
        self._through, self._stored = end, mark
        return len(minutes)

    def _forget(self) -> None:
        self._series, self._through, self._stored, self._is_loaded = {}, None, None, False

    async def _begin(self, closed: int) -> int:
        """Where to begin in a store that nobody watched: with its oldest pane, at most two days back."""
        newest = closed // MINUTE_S * MINUTE_S
        oldest = newest
        for dimension in self._dimensions:
            rows = await self._store.rows(dimension, MINUTE_S, newest - 2 * OLDEST_S, newest, [""])
            oldest = min([oldest, *(row.at.start for row in rows)])
        return oldest

    async def _load(self) -> None:
        self._stored = (await self._store.documents(WATCHED)).get(_THROUGH)
        self._through = None if self._stored is None else msgspec.json.decode(self._stored, type=int)
        await self.refresh()
        kept = {_named(text): _read_kept(data) for text, data in (await self._store.documents(DETECTOR)).items()}
        for name, one in kept.items():
            if name.metric in self._specs:
                self._series[name] = Series(self._specs[name.metric], one)
        if self._through is not None and kept:
            await self._catch_up(self._through)
        self._is_loaded = True

    async def _catch_up(self, through: int) -> None:
        """Brings the detectors, each kept at another minute, to the position; what they say was told before."""
        for start in range(min(one.through for one in self._series.values()), through, MINUTE_S):
            panes = await self._panes(start)
            for name, series in self._series.items():
                if series.through <= start:
                    series.step(start, panes.get(name))

    async def _panes(self, start: int) -> Panes:
        found: dict[SeriesName, Pane] = {}
        for dimension in self._dimensions:
            rows = await self._store.rows(dimension, MINUTE_S, start, start + MINUTE_S)
            wanted = frozenset(name for name, spec in self._specs.items() if dimension in spec.per)
            found.update(await asyncio.to_thread(_merged, dimension, rows, wanted))  # of ten thousand keys it takes a second
        return found

    def _judge(self, minutes: Sequence[_Minute], now: int) -> Found:
        """Runs in a worker thread; nothing else uses the series meanwhile, and baselines are replaced, not changed."""
        signals: list[Signal] = []
        kept: set[SeriesName] = set()
        learned: dict[SeriesName, Baseline] = {}
        for minute in minutes:
            kept.update(self._admit(minute.panes))  # or a young series would be forgotten by a restart
            for name, series in self._series.items():
                scored = series.step(minute.start, minute.panes.get(name))
                if scored is not None and scored.change is not None and minute.start >= now - OLDEST_S:
                    signals.append(_signal(series.spec, name, minute.start, scored))
                if crc32(str(name).encode()) % _KEEP_EVERY == minute.start // MINUTE_S % _KEEP_EVERY:
                    kept.add(name)
            for name, pane in minute.panes.items():
                if self._specs[name.metric].has_bins and (known := self._learner(name, learned)) is not None:
                    known.learn(pane)
        for name in learned:
            self._usual.pop(name, None)
        self._baselines.update(learned)
        documents = [DocumentWrite(DETECTOR, str(name), _write_kept(self._series[name].kept())) for name in sorted(kept)]
        documents += [DocumentWrite(BASELINE, str(name), _write_kept(learned[name])) for name in sorted(learned)]
        return Found(signals, documents)

    def _learner(self, name: SeriesName, learned: dict[SeriesName, Baseline]) -> Baseline | None:
        if name not in learned:
            known = self._baselines.get(name)
            if known is None and len(self._baselines) + len(learned) >= _MOST_BASELINES:
                return None
            learned[name] = Baseline() if known is None else Baseline(known.panes, known.pane)
        return learned[name]

    def _admit(self, panes: Panes) -> Sequence[SeriesName]:
        """The busiest new series, as long as there is room."""
        room = _MOST_SERIES - len(self._series)
        new = [name for name in panes if name not in self._series]
        if len(new) > room:
            new = sorted(new, key=lambda name: (-panes[name].n, name))[: max(0, room)]
        for name in new:
            self._series[name] = Series(self._specs[name.metric])
        return new


def _merged(dimension: str, rows: Iterable[PaneRow], wanted: frozenset[str]) -> Panes:
    by_key: dict[str, list[Mapping[str, Pane]]] = {}
    for row in rows:
        if row.at.key != OTHER_NAME:
            by_key.setdefault(row.at.key, []).append({name: pane for name, pane in load_row(row.data).items() if name in wanted})
    return {SeriesName(metric, dimension, key): pane for key, some in by_key.items() for metric, pane in merge_rows(some).items()}


def _signal(spec: MetricSpec, name: SeriesName, start: int, scored: Scored) -> Signal:
    change = scored.change
    assert change is not None  # noqa: S101  # asked before
    incident = change.incident
    return Signal(
        state="resolved" if change.what == "over" else "firing", metric=name.metric, dimension=name.dimension, key=name.key,
        detector=PANES, severity=incident.severity, since=incident.since, at=start + spec.pane_s, value=scored.value,
        baseline=scored.expected, threshold=deviations_of(SHIPPED_THRESHOLD), deviation=deviations_of(incident.peak),
        unit=spec.unit, window_s=spec.pane_s, summary=words(spec, name, scored),
    )  # fmt: skip


def _named(text: str) -> SeriesName:
    metric, dimension, key = text.split("|", 2)
    return SeriesName(metric, dimension, key)
