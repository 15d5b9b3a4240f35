"""Counting a history anew into a store: what the follower does with what comes, done with what was."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from typing import Final

from tallyroll.analytics.follower import AnalyticsFollower
from tallyroll.analytics.spec import MetricSpec
from tallyroll.analytics.tidying import tidy
from tallyroll.analytics.windows import Retention
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Clock, WindowStore
from tallyroll.telemetry import Counters

_FLUSH_ROWS: Final = 50_000  # records between two flushes: a pane that is written twice costs twice
_TIDY_FLUSHES: Final = 20  # flushes between two tidyings, so that the store holds no more minutes than a live one


async def recount(  # noqa: PLR0913  # what a follower is made of
    store: WindowStore,
    catalogue: Catalogue,
    specs: Sequence[MetricSpec],
    partitions: Sequence[TopicPartition],
    batches: AsyncIterable[Batch],
    *,
    clock: Clock,
    retention: Retention,
) -> AsyncGenerator[int, None]:
    """Counts batches of these partitions, each in offset order, into a store that has nothing of them; gives how many records so far.

    Nothing is judged and nobody is told: alarms are for what happens now. The store is tidied and stays the caller's.
    Raises PositionConflict where somebody else counts into it, StoreUnavailable, and what ``batches`` does.
    """
    follower = AnalyticsFollower(store, catalogue, specs, clock=clock, telemetry=Counters(), retention=retention)
    await follower.positions(partitions)
    done = flushed = flushes = 0
    async for batch in batches:
        follower.apply(batch)
        follower.wants_flush(interval_over=False)
        done += len(batch)
        if done - flushed >= _FLUSH_ROWS:
            await follower.flush()
            flushed, flushes = done, flushes + 1
            if flushes % _TIDY_FLUSHES == 0:
                await tidy(store, specs, retention)
            yield done
    await follower.flush()
    await follower.close()
    await tidy(store, specs, retention)
    yield done
