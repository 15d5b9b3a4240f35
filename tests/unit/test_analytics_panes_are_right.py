"""The kernel against plain Python: equal panes, whatever was batched how, in which order, and stopped where."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.analytics_histories import NOW, PLACES, SPECS, differences, feed, follower_on, logs, memory_store, stored
from tests.unit.analytics_reference import EPOCH, Reference

from tallyroll.telemetry import DUPLICATE_EVENTS, EVENTS_PROCESSED, FUTURE_EVENTS, SKIPPED, Counters

NOW_US = (NOW - EPOCH) // EPOCH.resolution
COUNTED = {
    "events": (EVENTS_PROCESSED, {}),
    "duplicates": (DUPLICATE_EVENTS, {}),
    "future": (FUTURE_EVENTS, {}),
    "undecodable": (SKIPPED, {"reason": "undecodable"}),
    "bad_time": (SKIPPED, {"reason": "bad_time"}),
    "unknown_schema": (SKIPPED, {"reason": "unknown_schema"}),
}
seeds = st.integers(0, 2**32)


async def compare(seed: int, *, restarts: bool) -> None:
    """Feeds one random history to the follower and to the reference."""
    log, random, counters = logs(seed, 150), Random(seed), Counters()  # noqa: S311  # a fixed history
    store = await memory_store()
    most = random.choice([5, 100_000])
    await feed(lambda clock: follower_on(store, clock=clock, telemetry=counters, max_rows=most), log, random, restarts=restarts)
    found = await stored(store)
    wanted = {place: Reference(SPECS, NOW_US).feed(records) for place, records in log.items()}
    for place in log:
        assert differences(found.get(place, {}), wanted[place]) == []
    if not restarts:  # what a follower read again after a restart it counts again
        told = {name: counters.value(metric, **labels) for name, (metric, labels) in COUNTED.items()}
        assert told == {name: sum(one.counts[name] for one in wanted.values()) for name in COUNTED}


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seeds)
def test_panes_and_counters_equal_a_plain_computation_over_the_log(seed):
    asyncio.run(compare(seed, restarts=False))


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seeds)
def test_followers_that_die_at_any_moment_leave_the_same_panes(seed):
    asyncio.run(compare(seed, restarts=True))


@pytest.mark.slow
def test_the_comparison_finds_what_is_wrong():
    async def panes():
        store = await memory_store()
        await feed(lambda clock: follower_on(store, clock=clock), log, Random(3))  # noqa: S311  # a fixed history
        return (await stored(store))[PLACES[0]]

    log = logs(3, 300)
    found, records = asyncio.run(panes()), log[PLACES[0]]
    assert differences(found, Reference(SPECS, NOW_US).feed(records)) == []
    assert differences(found, Reference(SPECS, NOW_US).feed(records[30:])), "records that were not counted"
    assert differences(found, Reference(SPECS, NOW_US).feed([*records, records[-1], (records[0][0], -1)])) == [], "copies count once"
    patient = [replace(spec, disorder_s=spec.disorder_s + 3_600) for spec in SPECS]
    assert differences(found, Reference(patient, NOW_US).feed(records)), "late events that were taken"
    one = next(cell for cell, pane in found.items() if pane.n > 1)
    assert differences({**found, one: replace(found[one], n=found[one].n - 1)}, Reference(SPECS, NOW_US).feed(records)) == [one]
