"""The kernel against plain Python: equal panes, whatever was batched how, in which order, and stopped where."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.analytics_histories import NOW, SPECS, differences, feed, follower_on, logs, memory_store, stored
from tests.unit.analytics_reference import EPOCH, Reference

from tallyroll.telemetry import DUPLICATE_EVENTS, EVENTS_PROCESSED, FUTURE_EVENTS, SKIPPED, Counters

NOW_US = (NOW - EPOCH) // EPOCH.resolution


async def compare(seed: int, *, restarts: bool) -> None:
    log, random, counters = logs(seed, 300), Random(seed), Counters()
    store = await memory_store()
    if True:
        def open_follower():
            return follower_on(store, telemetry=counters, max_rows=random.choice([5, 100_000]))

        await feed(open_follower(), log, random, restart=open_follower if restarts else None)
        found = await stored(store)
    wanted = {place: Reference(SPECS, NOW_US).feed(records) for place, records in log.items()}
    for place in log:
        assert differences(found.get(place, {}), wanted[place]) == []
    if not restarts:
        for metric, labels, name in (
            (EVENTS_PROCESSED, {}, "events"),
            (DUPLICATE_EVENTS, {}, "duplicates"),
            (FUTURE_EVENTS, {}, "future"),
            (SKIPPED, {"reason": "undecodable"}, "undecodable"),
            (SKIPPED, {"reason": "bad_time"}, "bad_time"),
            (SKIPPED, {"reason": "unknown_schema"}, "unknown_schema"),
        ):
            assert (name, counters.value(metric, **labels)) == (name, sum(one.counts[name] for one in wanted.values()))


def test_x():
    for seed in range(40):
        asyncio.run(compare(seed, restarts=False))
