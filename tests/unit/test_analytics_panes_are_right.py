"""The kernel against plain Python: equal panes, whatever was batched how, in which order, and stopped where."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.flows.analysing import TALLY, Quiet, Tally
from tests.unit.analytics_histories import (
    NOW_US,
    PLACES,
    SPECS,
    T0,
    Shaky,
    batch,
    differences,
    feed,
    follower_on,
    logs,
    memory_store,
    stored,
)
from tests.unit.analytics_reference import DAY, Reference

from tallyroll.analytics.follower import AnalyticsFollower
from tallyroll.analytics.left_out import LEFT_OUT, LeftOut
from tallyroll.analytics.pane import load_row
from tallyroll.analytics.run import KernelRun
from tallyroll.analytics.spec import spec_id
from tallyroll.analytics.tidying import tidy
from tallyroll.analytics.windows import EVER
from tallyroll.events.position import TopicPartition
from tallyroll.ports import WindowStore
from tallyroll.telemetry import DUPLICATE_EVENTS, EVENTS_PROCESSED, FUTURE_EVENTS, READ_RECORDS, SKIPPED, Counters
from tallyroll.testing.clock import FakeClock

COUNTED = {
    "events": (EVENTS_PROCESSED, {}),
    "duplicates": (DUPLICATE_EVENTS, {}),
    "future": (FUTURE_EVENTS, {}),
    "undecodable": (SKIPPED, {"reason": "undecodable"}),
    "bad_time": (SKIPPED, {"reason": "bad_time"}),
    "unknown_schema": (SKIPPED, {"reason": "unknown_schema"}),
}
seeds = st.integers(0, 2**32)


class Curious(Quiet):
    """An observer that looks at open panes now and then: values are put into them then, whatever else is under way."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def observed(self, run: KernelRun) -> None:
        for seen in run.observed:
            if self._random.random() < 0.05:
                run.open_pane(seen.spec.name, seen.dimension, seen.keys[0], int(seen.starts[seen.key_of == 0][0]))


async def compare(seed: int, *, restarts: bool, compiled: bool) -> None:
    """Feeds one random history to the follower and to the reference."""
    log, random, counters = logs(seed, 150), Random(seed), Counters()  # noqa: S311  # a fixed history
    store = await memory_store(Shaky)
    store.random = random
    most = random.choice([5, 100_000])

    async def opened(clock: FakeClock) -> AnalyticsFollower:
        tally = Tally(int((await store.documents(TALLY)).get(TALLY, b"0")))
        return follower_on(store, clock=clock, telemetry=counters, max_rows=most, observers=[tally, Curious(random)], compiled=compiled)

    await feed(opened, log, random, restarts=restarts)
    found = await stored(store)
    wanted = {place: Reference(SPECS, NOW_US).feed(records) for place, records in log.items()}
    for place in log:
        assert differences(found.get(place, {}), wanted[place]) == []
    seen = sum(one.news["events_processed"] for one in wanted.values())
    assert int((await store.documents(TALLY)).get(TALLY, b"0")) == seen, "observers see what is no news, or miss what is"
    left_out = await store.documents(LEFT_OUT)
    for place, one in wanted.items():
        told = LeftOut.of(left_out.get(str(place)), spec_id(SPECS)).of_time(EVER)
        unreadable = sum(one.counts[reason] for reason in ("undecodable", "bad_time", "unknown_schema"))
        assert told == {reason: count for reason, count in (("too_old", one.left_out["too_old"]), ("unreadable", unreadable)) if count}
    if not restarts:  # what a follower read again after a restart it counts again
        told = {name: counters.value(metric, **labels) for name, (metric, labels) in COUNTED.items()}
        assert told == {name: sum(one.counts[name] for one in wanted.values()) for name in COUNTED}


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=8)
@given(seeds)
def test_panes_and_counters_equal_a_plain_computation_over_the_log(compiled, seed):
    asyncio.run(compare(seed, restarts=False, compiled=compiled))


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=8)
@given(seeds)
def test_followers_that_die_at_any_moment_leave_the_same_panes(compiled, seed):
    asyncio.run(compare(seed, restarts=True, compiled=compiled))


@pytest.mark.parametrize("compiled", [True, False])
async def test_what_reads_the_records_is_told_and_is_what_was_asked_for(compiled):
    if compiled:
        pytest.importorskip("tallyroll_core", reason="the compiled core is not installed: scripts/core builds it where cargo is there")
    log, counters = logs(2, 150), Counters()  # most of its records are plain

    async def opened(clock: FakeClock) -> AnalyticsFollower:
        return follower_on(await memory_store(), clock=clock, telemetry=counters, compiled=compiled)

    await feed(opened, log, Random(2))  # noqa: S311  # a fixed history
    scanned, decoded = (counters.value(READ_RECORDS, outcome=outcome) for outcome in ("scanned", "decoded"))
    assert scanned + decoded == sum(map(len, log.values()))
    assert (scanned > 0) == compiled


@pytest.mark.slow
def test_the_comparison_finds_what_is_wrong():
    async def panes():
        store = await memory_store()

        async def opened(clock: FakeClock) -> AnalyticsFollower:
            return follower_on(store, clock=clock)

        await feed(opened, log, Random(3))  # noqa: S311  # a fixed history
        return (await stored(store))[PLACES[0]]

    log = logs(3, 300)
    found, records = asyncio.run(panes()), log[PLACES[0]]
    assert differences(found, Reference(SPECS, NOW_US).feed(records)) == []
    assert differences(found, Reference(SPECS, NOW_US).feed(records[30:])), "records that were not counted"
    assert differences(found, Reference(SPECS, NOW_US).feed([*records, records[-1], (records[0][0], -1)])) == [], "copies count once"
    earlier = [(value, 0) for value, _ in records]
    assert differences(found, Reference(SPECS, NOW_US - 40 * DAY).feed(earlier)), "newest events that were not so new"
    one = next(cell for cell, pane in found.items() if pane.n > 1)
    assert differences({**found, one: replace(found[one], n=found[one].n - 1)}, Reference(SPECS, NOW_US).feed(records)) == [one]


async def compare_tidied(seed: int) -> int:
    """Tidies at random moments, and compares every quarter hour that is kept. How many rows were removed."""
    log, random = logs(seed, 150), Random(seed)  # noqa: S311  # a fixed history
    store = await memory_store()
    follower = follower_on(store, max_rows=random.choice([5, 100_000]))
    await follower.positions(list(log))
    removed = 0
    for place, records in log.items():
        at = 0
        while at < len(records):
            some = batch(place, records[at : at + random.choice([1, 5, 40])], at)
            follower.apply(some)
            at = some.next_offset
            if random.random() < 0.5:
                await follower.flush()
            if random.random() < 0.3:
                removed += (await tidy(store, SPECS))[1]
        await follower.flush()
    removed += (await tidy(store, SPECS))[1]
    found = await stored_quarters(store)
    for place, records in log.items():
        wanted = Reference(SPECS, NOW_US).feed(records)
        oldest = (wanted.watermark or 0) - 35 * DAY
        expected: dict[tuple[str, str, int, str], int] = {}
        for (dimension, key, width, start, name), pane in wanted.panes.items():
            quarter = start // 900 * 900
            if width <= 900 and (quarter + 900) * 1_000_000 > oldest and name != "whole_time":
                at_quarter = dimension, key, quarter, name
                expected[at_quarter] = expected.get(at_quarter, 0) + len(pane.values)
        kept = {which: n for which, n in found.get(place, {}).items() if n or which in expected}
        assert {which: n for which, n in expected.items() if n} == {which: n for which, n in kept.items() if n}
    return removed


async def stored_quarters(store: WindowStore) -> dict[TopicPartition, dict[tuple[str, str, int, str], int]]:
    found: dict[TopicPartition, dict[tuple[str, str, int, str], int]] = {}
    for width, dimension in {(spec.pane_s, dimension) for spec in SPECS for dimension in spec.per if spec.pane_s < 900}:
        own = {spec.name for spec in SPECS if spec.pane_s == width}
        for row in await store.rows(dimension, width, 0, 2**35 // 900 * 900, rolled_s=900):
            for name, pane in load_row(row.data).items():
                if name in own:
                    cell = dimension, row.at.key, row.at.start // 900 * 900, name
                    of_partition = found.setdefault(row.partition, {})
                    of_partition[cell] = of_partition.get(cell, 0) + pane.n
    return found


@pytest.mark.slow
@settings(max_examples=4)
@given(seeds)
def test_what_is_tidied_away_meanwhile_changes_no_quarter_hour(seed):
    asyncio.run(compare_tidied(seed))


@pytest.mark.slow
def test_of_most_histories_something_is_tidied_away():
    assert asyncio.run(compare_tidied(3)) > 50


@pytest.mark.slow
async def test_numbers_of_keys_are_given_back_while_some_partition_has_none():
    def beats(count: int, day: int) -> list[tuple[bytes, int]]:
        made = []
        for number in range(count):
            at = T0 + timedelta(days=day, milliseconds=number)
            event = {
                "specversion": "1.0", "id": f"{day}-{number}", "source": "test", "type": "agent.heartbeat", "subject": f"agent:{number}",
                "time": at.isoformat(timespec="microseconds")[:-6] + "Z", "aggregatetype": "agent", "aggregateid": f"a-{number}",
                "schemaversion": "1.0.0", "data": {},
            }  # fmt: skip
            made.append((json.dumps(event).encode(), round(at.timestamp() * 1_000)))
        return made

    many, few, store = beats(1_500, 0), beats(3, 4), await memory_store()
    follower = follower_on(store)
    place, idle = PLACES[2], PLACES[0]
    await follower.positions([idle, place])
    for records, start in ((many, 0), (few, len(many))):
        follower.apply(batch(place, records, start))
        assert (await follower.flush())[place] == start + len(records)
    found = (await stored(store))[place]
    assert differences(found, Reference(SPECS, NOW_US).feed([*many, *few])) == []
