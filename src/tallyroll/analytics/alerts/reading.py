"""Windows for rules, read from the store: minute panes, and for long windows the wider rows that were rolled up from them."""

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
    found: list[PaneRow] = []
    at = over.start
    if over.pane_s == MINUTE_S and over.end - over.start >= _LONG_S:
        first = -(-over.start // QUARTER_S) * QUARTER_S
        found += await store.rows(dimension, MINUTE_S, over.start, first, keys)
        wide = await store.rows(dimension, QUARTER_S, first, over.end - over.end % QUARTER_S, keys)
        found += wide
        at = max((row.at.start + QUARTER_S for row in wide), default=first)  # they are rolled up in the order of time
    found += await store.rows(dimension, over.pane_s, at, over.end, keys)
    return await asyncio.to_thread(_merged, found)


def _merged(rows: Sequence[PaneRow]) -> Windows:
    parts: dict[str, dict[str, list[Pane]]] = {}
    for row in rows:
        metrics = parts.setdefault(row.at.key, {})
        for metric, pane in load_row(row.data).items():
            metrics.setdefault(metric, []).append(pane)
    return {key: {metric: merge(panes) for metric, panes in metrics.items()} for key, metrics in parts.items()}
