"""From the batches that wait in the lanes to columns: repeats dropped, times read, the future put back, watermarks moved. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Final

import numpy as np

from tallyroll.analytics.columns import Columns, Layout
from tallyroll.analytics.lane import Lane, clamp
from tallyroll.analytics.left_out import UNREADABLE
from tallyroll.analytics.moments import NEVER, moments
from tallyroll.analytics.reading import envelope_of, some_of, told_by
from tallyroll.events.batch import Batch

PIECE: Final = 512  # records, a megabyte with what is read of them


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


class _Gathered:
    """What was read of several lanes, as columns that grow."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.taken = layout.blank()
        self.offsets: list[int] = []
        self.timestamps_ms: list[int] = []

    def only(self, keep: Sequence[bool]) -> None:
        """Leaves out the other events."""
        self.taken = [list(compress(column, keep)) for column in self.taken]
        self.offsets, self.timestamps_ms = list(compress(self.offsets, keep)), list(compress(self.timestamps_ms, keep))


def gather(lanes: Sequence[Lane], layout: Layout, now_us: int, tally: Tally) -> Columns:
    """Takes the batches out of the lanes. ``now_us`` bounds event time where a record has no timestamp, or one from the future."""
    gathered, counts = _Gathered(layout), dict.fromkeys(lanes, 0)
    for piece in _pieces(lanes):
        _read(piece, gathered, counts, now_us, tally)
    ends = np.cumsum(list(counts.values())).tolist()
    times_us = moments(gathered.taken[layout.place["time", "text"]])
    known = times_us != NEVER
    if not known.all():
        tally.skipped["bad_time"] += int((~known).sum())
        for lane, start, stop in zip(lanes, [0, *ends[:-1]], ends, strict=True):
            bad = np.flatnonzero(~known[start:stop]) + start
            lane.left_out.add(UNREADABLE, _moments([gathered.timestamps_ms[row] for row in bad.tolist()], now_us))
        gathered.only(known.tolist())
        times_us, ends = times_us[known], np.concatenate([[0], np.cumsum(known)])[ends].tolist()
    bounds = np.array([0, *ends])
    times_us, future = clamp(times_us, np.fromiter(gathered.timestamps_ms, np.int64, len(gathered.timestamps_ms)), now_us)
    tally.future += future
    watermarks_us = np.empty(len(times_us), np.int64)
    for lane, start, stop in zip(lanes, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if start < stop:
            watermarks_us[start:stop] = lane.advance(times_us[start:stop])
            lane.left_out.met(int(times_us[start:stop].min()))
            tally.events[lane.partition.topic] += stop - start
    return Columns(layout, lanes, bounds, gathered.taken, gathered.offsets, times_us, watermarks_us)


def _pieces(lanes: Sequence[Lane]) -> Iterator[list[tuple[Lane, Batch]]]:
    """Takes the batches out of the lanes, some hundred records at a time.

    Such a piece stays in the processor's cache until it is columns, and what a piece costs is paid for many small batches at once.
    """
    piece: list[tuple[Lane, Batch]] = []
    size = 0
    for lane in lanes:
        batches, lane.batches = lane.batches, []
        for batch in batches:
            if piece and (size + len(batch) > PIECE or batch.has_heads != piece[0][1].has_heads):
                yield piece
                piece, size = [], 0
            piece.append((lane, batch))
            size += len(batch)
    if piece:
        yield piece


def _read(piece: Sequence[tuple[Lane, Batch]], gathered: _Gathered, counts: dict[Lane, int], now_us: int, tally: Tally) -> None:
    batches = [batch for _, batch in piece]
    bounds = _bounds(piece)
    values = list(chain.from_iterable(batch.values for batch in batches))
    heads = list(chain.from_iterable(batch.heads() for batch in batches)) if batches[0].has_heads else None
    reader = gathered.layout.reader
    at, documents = reader.read(values, heads)
    tally.skipped["undecodable"] += len(values) - len(at)
    envelope = envelope_of(documents)
    offsets = list(chain.from_iterable(batch.offsets for batch in batches))
    there = offsets if type(at) is range else [offsets[index] for index in at]
    told = told_by(envelope)
    copies: set[int] = set()
    for lane, start, stop in _parts(bounds, at):
        copies.update(start + index for index in lane.repeats.copies_told(told.part(start, stop), there[start:stop]))
    met = {at[number] for number in copies}
    if copies:
        tally.duplicates += len(copies)
        others = [number for number in range(len(at)) if number not in copies]
        at, envelope = [at[number] for number in others], some_of(envelope, others)
    found = reader.members(envelope, at, values)
    tally.skipped["undecodable"] += found.undecodable
    tally.skipped["unknown_schema"] += found.unknown_schema
    tally.invalid += found.invalid
    gathered.layout.take(found.envelope, found.members, gathered.taken)
    timestamps_ms = list(chain.from_iterable(batch.timestamps_ms for batch in batches))
    if len(found.at) + len(copies) < len(values):
        left = sorted(set(range(len(values))) - met - set(found.at))
        for lane, start, stop in _parts(bounds, left):
            lane.left_out.add(UNREADABLE, _moments([timestamps_ms[index] for index in left[start:stop]], now_us))
    if type(found.at) is not range:
        offsets, timestamps_ms = [offsets[index] for index in found.at], [timestamps_ms[index] for index in found.at]
    gathered.offsets += offsets
    gathered.timestamps_ms += timestamps_ms
    for lane, start, stop in _parts(bounds, found.at):
        counts[lane] += stop - start


def _moments(timestamps_ms: Iterable[int], now_us: int) -> list[int]:
    """Of records that have no event time: their own, as long as it is not from the future."""
    return [min(timestamp_ms * 1_000, now_us) if timestamp_ms >= 0 else now_us for timestamp_ms in timestamps_ms]


def _bounds(piece: Iterable[tuple[Lane, Batch]]) -> dict[Lane, int]:
    """Up to which record of the piece each lane goes."""
    bounds: dict[Lane, int] = {}
    end = 0
    for lane, batch in piece:
        end += len(batch)
        bounds[lane] = end
    return bounds


def _parts(bounds: Mapping[Lane, int], at: Sequence[int]) -> Iterator[tuple[Lane, int, int]]:
    """Of some records, given by their places in the piece, which are each lane's."""
    start = 0
    for lane, end in bounds.items():
        stop = bisect_left(at, end, start)
        yield lane, start, stop
        start = stop
