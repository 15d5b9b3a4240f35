"""A piece of records through the compiled scanner: what the reader makes of them, with no object for each of them. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, islice, pairwise

import numpy as np

from tallyroll.analytics.coded import Coded, translated
from tallyroll.analytics.gathered import Gathered, Piece, bounds_of
from tallyroll.analytics.lane import Lane
from tallyroll.analytics.scanner import FIXED, Scan, Scanner
from tallyroll.events.links import Told

_TYPE, _AGGREGATE_TYPE, _AGGREGATE, _VERSION, _, _EXPECTS, _SESSION = range(len(FIXED))


def scan_into(piece: Piece, scanner: Scanner, gathered: Gathered) -> int:
    """Adds what the first batches of a piece hold, and says how many: up to one with an unusual record, which is the reader's."""
    scan = scanner.scan(list(chain.from_iterable(batch.values for _, batch in piece)))
    if len(scan.times_us) < sum(len(batch) for _, batch in piece):
        ends = list(accumulate(len(batch) for _, batch in piece))
        piece = piece[: bisect_right(ends, len(scan.times_us))]
        scan = scan.first(sum(len(batch) for _, batch in piece))
    if not piece or not gathered.layout.reader.are_current(_versions(scan)):
        return 0
    _add(piece, scan, gathered)
    return len(piece)


def _add(piece: Piece, scan: Scan, gathered: Gathered) -> None:
    offsets = [batch.offsets for _, batch in piece]
    timestamps_ms = list(chain.from_iterable(batch.timestamps_ms for _, batch in piece))
    gathered.tally.read["scanned"] += len(timestamps_ms)
    coded, bounds = Coded(scan.ids, scan.times_us, scan.names, scan.texts, scan.sparse), bounds_of(piece)
    copies = _copies(scan, bounds, offsets)
    for lane, (start, stop) in zip(bounds, pairwise([0, *bounds.values()]), strict=True):
        gathered.counts[lane] += stop - start - (bisect_left(copies, stop) - bisect_left(copies, start))
    if copies:
        gathered.tally.duplicates += len(copies)
        keep = np.ones(len(coded), np.bool_)
        keep[copies] = False
        coded, left = coded.only(keep), np.flatnonzero(keep).tolist()
        told = list(chain.from_iterable(offsets))
        offsets, timestamps_ms = [[told[row] for row in left]], [timestamps_ms[row] for row in left]
    gathered.parts.append(coded)
    gathered.offsets += offsets
    gathered.timestamps_ms += timestamps_ms


def _versions(scan: Scan) -> set[tuple[str, str]]:
    """The types, with the versions of their payloads."""
    count = np.int64(len(scan.names))
    distinct = np.unique(scan.texts[_TYPE] * count + scan.texts[_VERSION]).tolist()
    return {(scan.names[one // len(scan.names)], scan.names[one % len(scan.names)]) for one in distinct}


def _copies(scan: Scan, bounds: Mapping[Lane, int], offsets: Sequence[Sequence[int]]) -> list[int]:
    """The records that do not count, as a rule none: what the filters of the lanes say, which remember all."""
    sessions, numbers = scan.texts[_SESSION], scan.numbers
    follows = (sessions[1:] == sessions[:-1]) & (numbers[1:] == numbers[:-1] + 1)
    follows[[end - 1 for end in bounds.values() if end < len(numbers)]] = False
    begins = np.flatnonzero(np.append(True, ~follows))
    expects = scan.texts[_EXPECTS] >= 0
    if expects.any():
        expects = translated(scan.texts[_EXPECTS], scan.names, bool, 0) == 1
    named = [scan.names[code] if code >= 0 else "" for code in sessions[begins].tolist()]
    firsts, places = numbers[begins].tolist(), begins.tolist()
    lengths = np.diff(begins, append=len(numbers)).tolist()
    prints, distinct = scan.prints.tolist(), _distinct(scan, bounds)
    copies: list[int] = []
    for lane, (start, stop) in zip(bounds, pairwise([0, *bounds.values()]), strict=True):
        left, right = bisect_left(places, start), bisect_left(places, stop)
        runs = list(zip(named[left:right], firsts[left:right], lengths[left:right], strict=True))
        if expects[start:stop].any() or not lane.repeats.all_count(runs, scan.ids[start:stop], prints[start:stop], distinct=distinct):
            own = list(islice(chain.from_iterable(offsets), start, stop))
            copies += [start + index for index in sorted(lane.repeats.copies_told(_told(scan, start, stop), own))]
    return copies


def _distinct(scan: Scan, lanes: Iterable[Lane]) -> bool:
    """Whether no two ids are alike, nor is one like a recent one of any lane: one sorting for all says it, as a rule."""
    recent = np.fromiter(chain.from_iterable(lane.repeats.recent_prints for lane in lanes), np.int64)
    prints = np.sort(np.append(scan.prints, recent))
    return not (prints[1:] == prints[:-1]).any()


def _told(scan: Scan, start: int, stop: int) -> Told:
    """What some records say of whether they count, in texts."""

    def texts(slot: int) -> list[str]:
        return [scan.names[code] if code >= 0 else "" for code in scan.texts[slot, start:stop].tolist()]

    numbers = [str(number) if number else "" for number in scan.numbers[start:stop].tolist()]
    return Told(scan.ids[start:stop], texts(_SESSION), numbers, texts(_EXPECTS), texts(_AGGREGATE_TYPE), texts(_AGGREGATE))
