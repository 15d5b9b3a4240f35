"""Merged panes of the store: of some keys or of all, over all partitions. What has not changed is not read again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import msgspec

from tallyroll.analytics.pane import Pane, load_row, merge_rows
from tallyroll.analytics.profile import Panes
from tallyroll.analytics.showing import Metrics
from tallyroll.analytics.spec import spec_id
from tallyroll.analytics.windows import QUARTER_S, Stretch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import PaneRow, WindowProgress, WindowStore

_REMEMBERED: Final = 512  # answers; those of one dashboard, many times
_REMEMBERED_KEYS: Final = 50_000  # together; about 2 KB each

_raw: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_pane: Final = msgspec.msgpack.Decoder(Pane).decode


class _Answer(NamedTuple):
    version: int
    panes: dict[str, Panes]


class MergedPanes:
    """Reads the store. What other metrics than ``metrics`` left there (another ``spec_id``) is not mixed in.

    Answers are kept until the store's version changes. Not promised: one moment over several calls.
    """

    def __init__(self, store: WindowStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._spec_id = spec_id(metrics.specs)
        self._answers: OrderedDict[tuple[object, ...], _Answer] = OrderedDict()

    async def progress(self) -> dict[TopicPartition, WindowProgress]:
        """How far each partition is, under these metrics."""
        found = await self._store.load_progress()
        return {partition: one for partition, one in sorted(found.items()) if one.spec_id == self._spec_id}

    async def read(
        self, dimension: str, stretch: Stretch, keys: Sequence[str] | None = None, metrics: Sequence[str] | None = None
    ) -> Mapping[str, Panes]:
        """Per key its merged panes; keys without any are left out. ``metrics``: those alone, which is quicker for many keys.

        Rows of panes that begin before the stretch and reach into it are taken whole: only metrics with panes longer than a
        minute have such.
        """
        asked = (dimension, stretch, None if keys is None else tuple(sorted(set(keys))), None if metrics is None else tuple(metrics))
        version = await self._store.version()
        known = self._answers.get(asked)
        if known is None or known.version != version:
            known = _Answer(version, await self._read(dimension, stretch, keys, metrics))
            self._remember(asked, known)
        return known.panes

    async def _read(self, dimension: str, stretch: Stretch, keys: Sequence[str] | None, metrics: Sequence[str] | None) -> dict[str, Panes]:
        progress = await self.progress()
        found: dict[str, dict[str, Pane]] = {}
        width_of = {spec.name: spec.pane_s for spec in self._metrics.of(dimension) if metrics is None or spec.name in metrics}
        for width_s in sorted(set(width_of.values())):
            rolled_s = QUARTER_S if QUARTER_S % width_s == 0 and width_s < QUARTER_S <= stretch.duration_s else None
            start = stretch.start // width_s * width_s
            rows = await self._store.rows(dimension, width_s, start, stretch.end, keys, rolled_s=rolled_s)
            merged = await asyncio.to_thread(_merged, [row for row in rows if row.partition in progress], metrics)
            for key, panes in merged.items():  # rows of a quarter hour may hold metrics of other panes beside
                if own := {name: pane for name, pane in panes.items() if name in width_of and width_of[name] == width_s}:
                    found.setdefault(key, {}).update(own)
        return dict(found)

    def _remember(self, asked: tuple[object, ...], answer: _Answer) -> None:
        self._answers[asked] = answer
        self._answers.move_to_end(asked)
        while len(self._answers) > _REMEMBERED or (
            len(self._answers) > 1 and sum(len(one.panes) for one in self._answers.values()) > _REMEMBERED_KEYS
        ):
            self._answers.popitem(last=False)


def split(rows: Iterable[PaneRow], stretches: Sequence[Stretch], metric: str) -> list[list[Pane]]:
    """The panes of one metric that begin in each of some stretches, which ascend and may overlap."""
    starts: list[tuple[int, Pane]] = []
    for row in rows:
        blob = _raw(row.data).get(metric)
        if blob is not None:
            starts.append((row.at.start, _pane(blob)))
    starts.sort(key=lambda one: one[0])
    found, low = [], 0
    for stretch in stretches:
        while low < len(starts) and starts[low][0] < stretch.start:
            low += 1
        inside, place = [], low
        while place < len(starts) and starts[place][0] < stretch.end:
            inside.append(starts[place][1])
            place += 1
        found.append(inside)
    return found


def rolled_for(width_s: int, steps_s: Iterable[int]) -> int | None:
    """The width of rolled-up panes that fit into windows which begin and last by these steps, if any does."""
    fits = width_s < QUARTER_S and QUARTER_S % width_s == 0 and all(step % QUARTER_S == 0 for step in steps_s)
    return QUARTER_S if fits else None


def _merged(rows: Sequence[PaneRow], metrics: Sequence[str] | None) -> dict[str, dict[str, Pane]]:
    return {key: merge_rows([_loaded(row.data, metrics) for row in some]) for key, some in groupby(rows, lambda row: row.at.key)}


def _loaded(data: bytes, metrics: Sequence[str] | None) -> Mapping[str, Pane]:
    if metrics is None:
        return load_row(data)
    raw = _raw(data)
    return {name: _pane(raw[name]) for name in metrics if name in raw}
