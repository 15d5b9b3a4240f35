"""What an answer tells of itself: its window, how much of that has been seen, and what of the log is in no answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from tallyroll.analytics.coverage import Seen, coverage
from tallyroll.analytics.left_out import LEFT_OUT, LeftOut
from tallyroll.analytics.profile import About
from tallyroll.analytics.spec import FLEET, MINUTE_S
from tallyroll.analytics.windows import QUARTER_S, Retention, Stretch, moment_of
from tallyroll.events.position import TopicPartition
from tallyroll.ports import WindowProgress, WindowStore

Progress = Mapping[TopicPartition, WindowProgress]


class Asked(NamedTuple):
    """One question's window, and what is known of the store at that time."""

    name: str
    stretch: Stretch
    upto_s: float
    progress: Progress

    @property
    def minutes(self) -> float:
        """How long the window has lasted so far."""
        return max(MINUTE_S, min(self.upto_s, self.stretch.end) - self.stretch.start) / 60

    @property
    def watermark(self) -> datetime | None:
        """The newest event counted."""
        newest = max((one.watermark_us for one in self.progress.values()), default=-1)
        return None if newest < 0 else moment_of(newest / 1_000_000)


async def about(
    store: WindowStore, asked: Asked, ends: Mapping[TopicPartition, int] | None, retention: Retention, *, truncated: bool
) -> About:
    """All that goes with the numbers of an answer. ``ends``: how far the log goes, None where it cannot be asked."""
    left_out = await _left_out(store, asked.progress)
    seen = Seen(asked.progress, ends, asked.upto_s, await _removed(store, asked, left_out, retention))
    began = None
    if seen.began_late and not await store.keys("agent", 0, asked.stretch.start, limit=1):
        rows = await store.rows(FLEET, MINUTE_S, *asked.stretch, [""])
        began = min((row.at.start for row in rows), default=asked.stretch.end)
    return {
        "time_window": asked.name,
        "window_start": moment_of(asked.stretch.start),
        "window_end": moment_of(asked.stretch.end),
        "watermark": asked.watermark,
        "truncated": truncated,
        "coverage": coverage(asked.stretch, seen, began),
        "left_out": total(left_out, asked.stretch),
        "as_of": {str(partition): one.next for partition, one in asked.progress.items()},
    }


async def left_out_of(store: WindowStore, stretch: Stretch, progress: Progress) -> dict[str, int]:
    """How many events of about that time are in no pane, by reason."""
    return total(await _left_out(store, progress), stretch)


def total(left_out: Mapping[TopicPartition, LeftOut], stretch: Stretch) -> dict[str, int]:
    """Of all partitions together."""
    found: Counter[str] = Counter()
    for one in left_out.values():
        found.update(one.of_time(stretch))
    return dict(sorted(found.items()))


async def _left_out(store: WindowStore, progress: Progress) -> Mapping[TopicPartition, LeftOut]:
    stored = await store.documents(LEFT_OUT)
    return {one: LeftOut.of(stored.get(str(one)), of_one.spec_id) for one, of_one in progress.items()}


async def _removed(
    store: WindowStore, asked: Asked, left_out: Mapping[TopicPartition, LeftOut], retention: Retention
) -> Mapping[TopicPartition, int]:
    """Up to when the panes of partitions have been removed for their age: of those that had any in the window."""
    removed: dict[TopicPartition, int] = {}
    for partition, progress in asked.progress.items():
        upto, oldest_us = progress.watermark_us // 1_000_000 - retention.of(QUARTER_S).own_s, left_out[partition].oldest_us
        if asked.stretch.start < upto and oldest_us is not None and oldest_us // 1_000_000 < min(upto, asked.stretch.end):
            first = oldest_us // 1_000_000 // QUARTER_S * QUARTER_S
            rows = await store.rows(FLEET, MINUTE_S, first, first + QUARTER_S, [""], rolled_s=QUARTER_S)
            if all(row.partition != partition for row in rows):
                removed[partition] = upto
    return removed
