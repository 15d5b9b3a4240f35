"""From the batches that wait in the lanes to columns: repeats dropped, times read, the future put back, watermarks moved. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.columns import Columns, Layout
from tallyroll.analytics.lane import Lane, clamp
from tallyroll.analytics.moments import NEVER, moments
from tallyroll.analytics.reading import Document


@dataclass(slots=True)
class Tally:
    """What a run has met, for the counters: events by topic, records left out by reason, values by metric."""

    events: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    overflowed: Counter[str] = field(default_factory=Counter)
    unmatched: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    invalid: int = 0
    future: int = 0
    revised: int = 0
    dropped: int = 0


class _Read(NamedTuple):
    """The readable first copies of one lane, as columns of equal length."""

    documents: Sequence[Document]
    members: Sequence[Any]
    offsets: Sequence[int]
    timestamps_ms: Sequence[int]


def gather(lanes: Sequence[Lane], layout: Layout, now_us: int, tally: Tally) -> Columns:
    """Takes the batches out of the lanes. ``now_us`` bounds event time where a record has no timestamp, or one from the future."""
    read: Sequence[_Read] = [_read(lane, layout, tally) for lane in lanes]
    times_us = moments([document.time for one in read for document in one.documents])
    if (times_us == NEVER).any():
        read, times_us = _with_time(read, times_us, tally)
    bounds = np.cumsum([0, *(len(one.documents) for one in read)])
    timestamps_ms = np.array(list(chain.from_iterable(one.timestamps_ms for one in read)), np.int64)
    times_us, future = clamp(times_us, timestamps_ms, now_us)
    tally.future += future
    watermarks_us = np.empty(len(times_us), np.int64)
    for lane, start, stop in zip(lanes, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if start < stop:
            watermarks_us[start:stop] = lane.advance(times_us[start:stop])
            tally.events[lane.partition.topic] += stop - start
    return Columns(
        layout,
        lanes,
        bounds,
        list(chain.from_iterable(one.documents for one in read)),
        list(chain.from_iterable(one.members for one in read)),
        list(chain.from_iterable(one.offsets for one in read)),
        times_us,
        watermarks_us,
    )


def _read(lane: Lane, layout: Layout, tally: Tally) -> _Read:
    batches, lane.batches = lane.batches, []
    values = list(chain.from_iterable(batch.values for batch in batches))
    heads = list(chain.from_iterable(batch.heads() for batch in batches)) if all(batch.has_heads for batch in batches) else None
    read = layout.reader.read(values, heads)
    index: Sequence[int] = range(len(values))
    documents: Sequence[Document]
    if None in read:
        index = [at for at, one in enumerate(read) if one is not None]
        tally.skipped["undecodable"] += len(values) - len(index)
    documents = [one for one in read if one is not None]
    copies = lane.repeats.copies(documents)
    if copies:
        tally.duplicates += len(copies)
        index = [at for number, at in enumerate(index) if number not in copies]
        documents = [one for number, one in enumerate(documents) if number not in copies]
    found = layout.reader.members(documents, index, values)
    tally.skipped["undecodable"] += found.undecodable
    tally.skipped["unknown_schema"] += found.unknown_schema
    tally.invalid += found.invalid
    offsets = list(chain.from_iterable(batch.offsets for batch in batches))
    timestamps_ms = list(chain.from_iterable(batch.timestamps_ms for batch in batches))
    if len(found.at) < len(values) or type(found.at) is not range:
        offsets, timestamps_ms = [offsets[at] for at in found.at], [timestamps_ms[at] for at in found.at]
    return _Read(found.documents, found.members, offsets, timestamps_ms)


def _with_time(read: Sequence[_Read], times_us: NDArray[np.int64], tally: Tally) -> tuple[Sequence[_Read], NDArray[np.int64]]:
    """Those whose event time can be read, and their times."""
    known = times_us != NEVER
    tally.skipped["bad_time"] += int((~known).sum())
    kept, left = [], iter(known.tolist())
    for one in read:
        keep = list(islice(left, len(one.documents)))
        kept.append(_Read(*(list(compress(column, keep)) for column in one)))
    return kept, times_us[known]
