"""Keeping a window store small: minutes become quarter hours, and what is past its time goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from math import ceil
from typing import Final

from tallyroll.analytics.pane import join_rows
from tallyroll.analytics.spec import MetricSpec
from tallyroll.analytics.windows import QUARTER_S, USUALLY_KEPT, Retention
from tallyroll.errors import StoreError
from tallyroll.ports import Clock, WindowStore

log: Final = logging.getLogger("tallyroll.analytics")

_EVERY_S: Final = 60.0  # a quarter hour is rolled up soon after it is over; with nothing to do it costs a few milliseconds
_MOST_SETTLING_S: Final = 600  # whose metrics wait longer for late values have some quarter hours made again


async def tidy(store: WindowStore, specs: Sequence[MetricSpec], retention: Retention = USUALLY_KEPT) -> tuple[int, int]:
    """Rolls up and removes what is due; how many rows it made and removed.

    Panes whose length divides a quarter hour are rolled up and kept for 48 hours, the rolled-up ones, and panes of a quarter
    hour or more, for as long as ``retention`` says; panes of other lengths are kept for 48 hours and that is all. All by
    event time. Safe to call from several processes at a time. Raises StoreUnavailable.
    """
    made = removed = 0
    for width_s in sorted({QUARTER_S, *(spec.pane_s for spec in specs)}):
        kept = retention.of(width_s)
        if kept.gathered:
            waiting = max(spec.disorder_s + spec.lateness_s for spec in specs if spec.pane_s == width_s)
            settle_s = min(_MOST_SETTLING_S, ceil(waiting))
            made += await store.roll_up(width_s=width_s, into_s=QUARTER_S, settle_s=settle_s, join=join_rows)
        removed += await store.prune(width_s=width_s, keep_s=kept.own_s)
    return made, removed


class Tidier:
    """Tidies at once and then each minute, in a task of its own, until it is stopped. A store that does not answer is tried again."""

    def __init__(self, store: WindowStore, specs: Sequence[MetricSpec], clock: Clock, retention: Retention = USUALLY_KEPT) -> None:
        self._store = store
        self._retention = retention
        self._specs = specs
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins. Safe to call twice."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="tidy window store")

    async def stop(self) -> None:
        """Ends it; what has been rolled up stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await tidy(self._store, self._specs, self._retention)
            except StoreError as error:
                log.warning("the window store was not tidied: %s", error)
            await self._clock.sleep(_EVERY_S)
