"""From the batches that wait in the lanes to columns: repeats dropped, times read, the future put back, watermarks moved. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from tallyroll.analytics.coded import joined
from tallyroll.analytics.columns import Columns, Layout
from tallyroll.analytics.gathered import LISTED, SCANNED, Gathered, Piece, Tally, bounds_of, parts_of, piece_at, take_batches
from tallyroll.analytics.lane import Lane, clamp
from tallyroll.analytics.left_out import UNREADABLE
from tallyroll.analytics.moments import NEVER
from tallyroll.analytics.reading import envelope_of, some_of, told_by
from tallyroll.analytics.scanning import scan_into


def gather(lanes: Sequence[Lane], layout: Layout, now_us: int, tally: Tally) -> Columns:
    """Takes the batches out of the lanes. ``now_us`` bounds event time where a record has no timestamp, or one from the future."""
    gathered = Gathered(layout, lanes, tally)
    batches, at, most = take_batches(lanes), 0, LISTED if layout.scanner is None else SCANNED
    while at < len(batches):
        piece = piece_at(batches, at, most)
        if layout.scanner is None:
            _read(piece, gathered, now_us)
        elif (done := scan_into(piece, layout.scanner, gathered)) == len(piece):
            most = SCANNED
        else:
            piece, most = piece[: done + 1], LISTED  # what is unusual seldom comes alone, and to hand over in vain costs something
            _read(piece[done:], gathered, now_us)
        at += len(piece)
    ends = np.cumsum(list(gathered.counts.values())).tolist()
    coded = joined(gathered.parts, layout.slots)
    known = coded.times_us != NEVER
    if not known.all():
        tally.skipped["bad_time"] += int((~known).sum())
        for lane, start, stop in zip(lanes, [0, *ends[:-1]], ends, strict=True):
            bad = np.flatnonzero(~known[start:stop]) + start
            lane.left_out.add(UNREADABLE, _moments([gathered.timestamps_ms[row] for row in bad.tolist()], now_us))
        gathered.only(known)
        coded, ends = coded.only(known), np.concatenate([[0], np.cumsum(known)])[ends].tolist()
    bounds = np.array([0, *ends])
    times_us, future = clamp(coded.times_us, np.fromiter(gathered.timestamps_ms, np.int64, len(gathered.timestamps_ms)), now_us)
    tally.future += future
    watermarks_us = np.empty(len(times_us), np.int64)
    for lane, start, stop in zip(lanes, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if start < stop:
            watermarks_us[start:stop] = lane.advance(times_us[start:stop])
            lane.left_out.met(int(times_us[start:stop].min()))
            tally.events[lane.partition.topic] += stop - start
    return Columns(layout, lanes, bounds, coded, gathered.offsets, times_us, watermarks_us)


def _read(piece: Piece, gathered: Gathered, now_us: int) -> None:
    tally = gathered.tally
    batches = [batch for _, batch in piece]
    bounds = bounds_of(piece)
    values = list(chain.from_iterable(batch.values for batch in batches))
    heads = list(chain.from_iterable(batch.heads() for batch in batches)) if batches[0].has_heads else None
    reader = gathered.layout.reader
    at, documents = reader.read(values, heads)
    tally.read["decoded"] += len(values)
    tally.skipped["undecodable"] += len(values) - len(at)
    envelope = envelope_of(documents)
    offsets = list(chain.from_iterable(batch.offsets for batch in batches))
    there = offsets if type(at) is range else [offsets[index] for index in at]
    told = told_by(envelope)
    copies: set[int] = set()
    for lane, start, stop in parts_of(bounds, at):
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
    gathered.parts.append(gathered.layout.code(found.envelope, found.members, gathered.names))
    timestamps_ms = list(chain.from_iterable(batch.timestamps_ms for batch in batches))
    if len(found.at) + len(copies) < len(values):
        left = sorted(set(range(len(values))) - met - set(found.at))
        for lane, start, stop in parts_of(bounds, left):
            lane.left_out.add(UNREADABLE, _moments([timestamps_ms[index] for index in left[start:stop]], now_us))
    if type(found.at) is not range:
        offsets, timestamps_ms = [offsets[index] for index in found.at], [timestamps_ms[index] for index in found.at]
    gathered.offsets.append(offsets)
    gathered.timestamps_ms += timestamps_ms
    for lane, start, stop in parts_of(bounds, found.at):
        gathered.counts[lane] += stop - start


def _moments(timestamps_ms: Iterable[int], now_us: int) -> list[int]:
    """Of records that have no event time: their own, as long as it is not from the future."""
    return [min(timestamp_ms * 1_000, now_us) if timestamp_ms >= 0 else now_us for timestamp_ms in timestamps_ms]
