"""Metrics counted anew from archive and log: into an empty store, or beside what is stored, to hold it against the history."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from tallyroll.analytics.query import AnalyticsEngine
from tallyroll.analytics.spec import spec_id
from tallyroll.analytics.windows import FOREVER, Retention
from tallyroll.errors import PositionConflict
from tallyroll.events.position import TopicPartition
from tallyroll.opening import scratch_window_store
from tallyroll.ports import Span
from tallyroll.replay.records import plan_records, records
from tallyroll.roll.parts import Parts

if TYPE_CHECKING:
    from tallyroll.analytics.fingerprint import PanesFingerprint


@asynccontextmanager
async def recounted(parts: Parts, since: datetime | None) -> AsyncIterator[AnalyticsEngine]:
    """As ``Roll.recounted``."""
    opened, log = await parts.analytics(), parts.log
    ends, starts = await log.ends(opened.topics), await log.starts(opened.topics)
    begin = starts if since is None else await log.positions_at(opened.topics, int(since.timestamp() * 1_000))
    spans = [Span(*where, begin.get(where, 0), end) for where, end in ends.items() if begin.get(where, 0) < end]
    partitions = [TopicPartition(span.topic, span.partition) for span in spans]
    async with scratch_window_store() as store:
        async for _ in opened.recount(store, partitions, log.read(spans), FOREVER):
            pass
        yield opened.engine_on(store)


async def restore_metrics(parts: Parts, *, allow_truncated: bool) -> AsyncGenerator[tuple[int, int], None]:
    """As ``Roll.restore_metrics``."""
    opened, replayer = await parts.analytics(), (await parts.replay_engine()).replayer
    stored = await opened.store.load_progress()
    if stored:
        at = min(stored)
        raise PositionConflict(str(at), stored=stored[at].next, expected=None)
    planned = await plan_records(replayer, opened.topics, allow_truncated=allow_truncated)
    partitions = [one.partition for one in planned.partitions]
    async with aclosing(records(replayer, planned)) as batches:
        async for done in opened.recount(opened.store, partitions, batches, opened.retention):
            yield done, planned.records


async def metrics_fingerprint(parts: Parts) -> PanesFingerprint | None:
    """As ``Roll.metrics_fingerprint``."""
    if not parts.is_counted:
        return None
    opened = await parts.analytics()
    found = await opened.fingerprint(opened.store, opened.retention)
    return found if found.as_of else None


async def recounted_fingerprint(parts: Parts, like: PanesFingerprint, tell: Callable[[int, int], None]) -> PanesFingerprint | None:
    """As ``Roll.recounted_fingerprint``."""
    opened, replayer = await parts.analytics(), (await parts.replay_engine()).replayer
    if like.metrics != spec_id(opened.specs):
        return None
    spans = {TopicPartition.parse(where): span for where, span in like.as_of.items()}
    planned = await plan_records(replayer, sorted({partition.topic for partition in spans}), spans=spans)
    retention = Retention(like.keep_s)
    async with scratch_window_store() as store, aclosing(records(replayer, planned)) as batches:
        async for done in opened.recount(store, list(spans), batches, retention):
            tell(done, planned.records)
        return await opened.fingerprint(store, retention)
