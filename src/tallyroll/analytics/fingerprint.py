"""What a window store holds, in a form to keep and to compare: by the same metrics two stores that counted the same events are alike.

Neither the batches in which events came, nor what was gathered into quarter hours or removed meanwhile, makes a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from typing import Final

import msgspec

from tallyroll.analytics.left_out import LEFT_OUT, LeftOut
from tallyroll.analytics.pane import Pane, load_row, merge_rows
from tallyroll.analytics.spec import MetricSpec, spec_id
from tallyroll.analytics.windows import QUARTER_S, Kept, Retention
from tallyroll.events.position import TopicPartition
from tallyroll.ports import PaneRow, WindowProgress, WindowStore

_STEP_S: Final = 24 * QUARTER_S  # of which rows are in memory at a time

_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode


class PanesFingerprint(msgspec.Struct, frozen=True):
    """``panes`` as one ``hash``, by the metrics of the id ``metrics``, kept for ``keep_s``, of the offsets ``as_of``: first and next.

    A pane here is what one partition has of a key in a quarter hour, or in the pane's own width where that is kept as it is;
    only those count that are kept for certain, by the newest event of their partition.
    Counts, bins, extremes and whole sums are in the hash. Not promised: sums of floats and deviations, whose last bits
    depend on the order in which they were added.
    """

    metrics: str
    keep_s: int
    as_of: Mapping[str, tuple[int, int]]
    panes: int
    hash: str


async def panes_fingerprint(store: WindowStore, specs: Sequence[MetricSpec], retention: Retention) -> PanesFingerprint:
    """Of a store as it is now, whoever writes meanwhile. Raises StoreUnavailable."""
    async with store.at_one_moment() as now:
        return await _of(now, specs, retention)


async def _of(store: WindowStore, specs: Sequence[MetricSpec], retention: Retention) -> PanesFingerprint:
    ours = spec_id(specs)
    progress = {partition: one for partition, one in (await store.load_progress()).items() if one.spec_id == ours}
    met = await _oldest_met(store, ours)
    hashed, panes = sha256(), 0
    for dimension, width_s in sorted({(dimension, spec.pane_s) for spec in specs for dimension in spec.per}):
        kept = retention.of(width_s)
        unit_s = QUARTER_S if kept.gathered else width_s
        names = frozenset(spec.name for spec in specs if spec.pane_s == width_s and dimension in spec.per)
        floors = {partition: _floor(one, kept) for partition, one in progress.items()}
        rolled_s = QUARTER_S if kept.gathered else None
        for start in _steps(progress, floors, met):
            rows = await store.rows(dimension, width_s, start, start + _STEP_S, rolled_s=rolled_s)
            for told in _told(rows, unit_s, names, floors):
                hashed.update(_encode((dimension, width_s, *told)))
                panes += 1
    as_of = {str(partition): (one.first, one.next) for partition, one in sorted(progress.items())}
    return PanesFingerprint(ours, retention.quarters_s, as_of, panes, hashed.hexdigest())


async def _oldest_met(store: WindowStore, ours: str) -> dict[TopicPartition, int]:
    """Of each partition the smallest event time, in seconds; partitions without events are left out."""
    found = {}
    for at, document in (await store.documents(LEFT_OUT)).items():
        oldest_us = LeftOut.of(document, ours).oldest_us
        if oldest_us is not None:
            found[TopicPartition.parse(at)] = oldest_us // 1_000_000
    return found


def _steps(
    progress: Mapping[TopicPartition, WindowProgress], floors: Mapping[TopicPartition, int], met: Mapping[TopicPartition, int]
) -> list[int]:
    """Where the steps begin that can hold panes, ascending. A partition's panes lie between its oldest and its newest event."""
    begins = set[int]()
    for partition, oldest_s in met.items():
        if partition in progress:
            newest_s = progress[partition].watermark_us // 1_000_000
            first_s = max(oldest_s, floors[partition] - QUARTER_S)
            begins.update(range(first_s // _STEP_S * _STEP_S, newest_s + 1, _STEP_S))
    return sorted(begins)


def _floor(progress: WindowProgress, kept: Kept) -> int:
    """What ends there or before may have been removed."""
    return progress.watermark_us // 1_000_000 - (kept.quarters_s if kept.gathered else kept.own_s)


def _told(
    rows: Iterable[PaneRow], unit_s: int, names: frozenset[str], floors: Mapping[TopicPartition, int]
) -> Iterator[tuple[str, int, str, list[tuple[str, tuple[object, ...]]]]]:
    """Key, start, partition and panes of each unit, in that order."""

    def place(row: PaneRow) -> tuple[str, int, str]:
        return row.at.key, row.at.start // unit_s * unit_s, str(row.partition)

    mine = [row for row in rows if row.partition in floors and row.at.start // unit_s * unit_s + unit_s > floors[row.partition]]
    for (key, start, partition), some in groupby(sorted(mine, key=place), place):
        held = [{name: pane for name, pane in load_row(row.data).items() if name in names} for row in some]
        merged = [(name, _certain(pane)) for name, pane in sorted(merge_rows(held).items())]
        if merged:
            yield key, start, partition, merged


def _certain(pane: Pane) -> tuple[object, ...]:
    """What does not depend on the order of merging."""
    whole = pane.sum if isinstance(pane.sum, int) else None
    extremes = (pane.min, pane.max) if pane.n else ()
    bins = (pane.index, pane.count, pane.mirror_index, pane.mirror_count)
    return pane.n, whole, *extremes, pane.ok, pane.zero, pane.over, pane.neg, pane.nan, *bins
