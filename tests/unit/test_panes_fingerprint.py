"""A fingerprint of panes is that of the events: not of batches, tidying, or who counted; and every pane is in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.analytics_histories import NOW, SPECS, Record, batch, feed, follower_on, logs, memory_store
from tests.unit.replay_histories import CATALOGUE

from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.analytics.fingerprint import PanesFingerprint, panes_fingerprint
from tallyroll.analytics.pane import dump_row, load_row
from tallyroll.analytics.recounting import recount
from tallyroll.analytics.tidying import tidy
from tallyroll.analytics.windows import FOREVER, USUALLY_KEPT, Retention
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import WindowWrite
from tallyroll.testing.clock import FakeClock

Log = Mapping[TopicPartition, Sequence[Record]]


async def one_after_the_other(log: Log) -> AsyncIterator[Batch]:
    for place, records in log.items():
        for start in range(0, len(records), 37):
            yield batch(place, records[start : start + 37], start)


async def recounted(log: Log, retention: Retention = USUALLY_KEPT) -> SqliteWindowStore:
    store = await memory_store()
    filled = {place: records for place, records in log.items() if records}
    counting = recount(store, CATALOGUE, SPECS, list(filled), one_after_the_other(filled), clock=FakeClock(NOW), retention=retention)
    assert [done async for done in counting][-1] == sum(map(len, log.values()))
    return store


async def fingerprint(store: SqliteWindowStore) -> PanesFingerprint:
    return await panes_fingerprint(store, SPECS, USUALLY_KEPT)


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_it_does_not_depend_on_batches_and_tidying(seed: int) -> None:
    async def go() -> None:
        log, random = logs(seed, 150), Random(seed)  # noqa: S311  # a fixed history
        store = await memory_store()

        async def opened(clock: FakeClock):
            return follower_on(store, clock=clock)

        half = {place: records[: random.randrange(len(records) + 1)] for place, records in log.items()}
        for part in (half, log):
            await feed(opened, part, random)
            if random.random() < 0.7:
                await tidy(store, SPECS)
        found = await fingerprint(store)
        assert found == await fingerprint(await recounted(log))
        assert found.panes > 0 or not any(log.values())

    asyncio.run(go())


def test_every_pane_that_is_kept_is_in_it() -> None:
    async def go() -> None:
        log = logs(3, 300)
        whole, usual = await recounted(log, FOREVER), await recounted(log)
        assert await fingerprint(whole) == await fingerprint(usual), "what may have been removed is not in it"
        before = await fingerprint(usual)
        watermarks = {place: one.watermark_us // 1_000_000 for place, one in (await usual.load_progress()).items()}
        widths = sorted({(dimension, spec.pane_s) for spec in SPECS for dimension in spec.per})
        changed = 0
        for dimension, width_s in widths:
            rows = await usual.rows(dimension, width_s, -(2**40), 2**40)
            for row in rows[:: max(1, len(rows) // 3)]:
                if row.at.start <= watermarks[row.partition] - 40 * 3_600:
                    continue
                progress = (await usual.load_progress())[row.partition]
                panes = load_row(row.data)
                name = min(panes)
                other = {**panes, name: type(panes[name])(n=panes[name].n + 1)}
                for data in (dump_row(other), row.data):
                    await usual.commit([WindowWrite(row.partition, progress.next, progress, [(row.at, row.revision, data)])])
                    after = await fingerprint(usual)
                    assert (after.hash == before.hash) == (data == row.data), (row.at, name)
                changed += 1
        assert changed >= len(widths) // 2

    asyncio.run(go())


def test_a_record_more_or_less_is_another_one() -> None:
    async def go() -> None:
        log = logs(5, 300)
        before = await fingerprint(await recounted(log))
        others = set()
        for place, records in log.items():
            shorter = await fingerprint(await recounted({**log, place: records[:-20]}))
            assert shorter.as_of != before.as_of
            others.add(shorter.hash)
        assert before.hash not in others
        assert len(others) == len(log)

    asyncio.run(go())
