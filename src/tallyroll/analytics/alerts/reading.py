"""Windows for rules, read from the store; for long ones the wider rows that were rolled up from minute panes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tallyroll.analytics.pane import Pane, load_row, merge
from tallyroll.analytics.spec import MINUTE_S
from tallyroll.ports import PaneRow, WindowStore

QUARTER_S: Final = 900
"""Width of the rows that minute panes are rolled up into."""

_LONG_S: Final = 4 * 3_600  # from here on it pays to look for wider rows

Windows = Mapping[str, Mapping[str, Pane]]
"""One pane per key and metric."""


class Stretch(NamedTuple):
    """Event time from ``start`` to ``end`` (exclusive), seconds since 1970, in panes of ``pane_s``."""

    start: int
    end: int
    pane_s: int


async def read_window(store: WindowStore, dimension: str, over: Stretch, keys: Sequence[str] | None = None) -> Windows:
    """Everything within the stretch merged, per key and metric.

    Merging is left to a thread: a long window of many keys takes a while.
    """
    rolled_s = QUARTER_S if over.pane_s == MINUTE_S and over.end - over.start >= _LONG_S else None
    found = await store.rows(dimension, over.pane_s, over.start, over.end, keys, rolled_s=rolled_s)
    return await asyncio.to_thread(_merged, found)


def _merged(rows: Sequence[PaneRow]) -> Windows:
    parts: dict[str, dict[str, list[Pane]]] = {}
    for row in rows:
        metrics = parts.setdefault(row.at.key, {})
        for metric, pane in load_row(row.data).items():
            metrics.setdefault(metric, []).append(pane)
    return {key: {metric: merge(panes) for metric, panes in metrics.items()} for key, metrics in parts.items()}
