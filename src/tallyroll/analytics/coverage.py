"""How much of a window has been seen: a number is only as good as what was counted for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tallyroll.analytics.windows import Stretch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import WindowProgress


class Seen(NamedTuple):
    """How far the panes go, and how far the log does: its ends by partition, None where it cannot be asked. ``upto_s``: now.

    ``removed``: by partition until when its panes have been removed, where there were any.
    """

    progress: Mapping[TopicPartition, WindowProgress]
    ends: Mapping[TopicPartition, int] | None
    upto_s: float
    removed: Mapping[TopicPartition, int] = {}

    @property
    def began_late(self) -> bool:
        """Whether the start of some partition was gone when counting began."""
        return any(one.first > 0 for one in self.progress.values())


def coverage(stretch: Stretch, seen: Seen, began_s: int | None = None) -> float:
    """The share of the stretch, up to now, that has been seen: the mean over partitions that have records, 0 to 1.

    A partition whose end was reached has been seen up to now, one that is behind up to its newest event. Where the log
    cannot be asked, all have been seen up to the newest event of any. ``began_s``: nothing before it was counted.
    """
    end = min(float(stretch.end), seen.upto_s)
    start = float(stretch.start)
    if end <= start:
        return 1.0
    if seen.ends is None:
        newest = max((one.watermark_us for one in seen.progress.values()), default=-1) / 1_000_000
        reached = [(newest, max(seen.removed.values(), default=0))]
    else:
        reached = [
            (_reached(seen.progress.get(partition), end_offset, end), seen.removed.get(partition, 0))
            for partition, end_offset in seen.ends.items()
            if end_offset
        ]
    if not reached:
        return 1.0
    begin = start if began_s is None else max(start, float(began_s))
    return sum(max(0.0, min(upto, end) - max(begin, removed)) for upto, removed in reached) / len(reached) / (end - start)


def _reached(progress: WindowProgress | None, end_offset: int, end: float) -> float:
    if progress is None:
        return -1.0
    return end if progress.next >= end_offset else progress.watermark_us / 1_000_000
