"""What has been read of the batches of one run, and what was met on the way. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.coded import Coded, Names
from tallyroll.analytics.columns import Layout
from tallyroll.analytics.lane import Lane
from tallyroll.events.batch import Batch

LISTED: Final = 512  # records the reader takes at a time, a megabyte with what is read of them
SCANNED: Final = 65_536  # records the scanner takes, more than a run has, so that they share their names


@dataclass(slots=True)
class Tally:
    """What a run has met, for the counters: events by topic, records by what read them, those left out by reason, values by metric."""

    events: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    overflowed: Counter[str] = field(default_factory=Counter)
    unmatched: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    invalid: int = 0
    future: int = 0
    revised: int = 0
    dropped: int = 0


Piece = Sequence[tuple[Lane, Batch]]
"""Batches that are read together; those of one lane stand together."""


class Gathered:
    """What was read of several lanes, in their order. ``counts``: events of each lane; ``names``: those the reader met."""

    def __init__(self, layout: Layout, lanes: Iterable[Lane], tally: Tally) -> None:
        self.layout = layout
        self.tally = tally
        self.counts = dict.fromkeys(lanes, 0)
        self.names = Names()
        self.parts: list[Coded] = []
        self.offsets: list[Sequence[int]] = []  # in stretches, for few of them are asked for
        self.timestamps_ms: list[int] = []

    def only(self, keep: NDArray[np.bool_]) -> None:
        """Leaves out the offsets and timestamps of other events."""
        chosen = keep.tolist()
        self.offsets = [list(compress(chain.from_iterable(self.offsets), chosen))]
        self.timestamps_ms = list(compress(self.timestamps_ms, chosen))


def take_batches(lanes: Iterable[Lane]) -> Piece:
    """Takes all batches out of the lanes."""
    taken: list[tuple[Lane, Batch]] = []
    for lane in lanes:
        taken += [(lane, batch) for batch in lane.batches]
        lane.batches = []
    return taken


def piece_at(batches: Piece, first: int, most: int) -> Piece:
    """The next batches that have at most so many records, or one batch; all of them with heads, or none.

    Such a piece stays in the processor's cache until it is columns, and what a piece costs is paid for many small batches at once.
    """
    size, has_heads = 0, batches[first][1].has_heads
    for place in range(first, len(batches)):
        batch = batches[place][1]
        size += len(batch)
        if place > first and (size > most or batch.has_heads != has_heads):
            return batches[first:place]
    return batches[first:]


def bounds_of(piece: Piece) -> dict[Lane, int]:
    """Up to which record of the piece each lane goes."""
    bounds: dict[Lane, int] = {}
    end = 0
    for lane, batch in piece:
        end += len(batch)
        bounds[lane] = end
    return bounds


def parts_of(bounds: Mapping[Lane, int], at: Sequence[int]) -> Iterator[tuple[Lane, int, int]]:
    """Of some records, given by their places in the piece, which are each lane's."""
    start = 0
    for lane, end in bounds.items():
        stop = bisect_left(at, end, start)
        yield lane, start, stop
        start = stop
