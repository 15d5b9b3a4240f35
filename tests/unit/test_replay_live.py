"""Live state equals replayed state, whatever the batches, restarts and faults; and the test can tell when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.replay_histories import CATALOGUE, TOPICS, Log, ReadOnlyLog, batch_of, cuts, empty_log, event, log_of, random_log, replay

from tallyroll.adapters.sqlite.state_store import SqliteStateStore
from tallyroll.errors import PositionConflict, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.replay.fields import Place
from tallyroll.replay.fold import Part, join, state_hash
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.state import StateFollower, stored_owners, stored_positions, stored_state
from tallyroll.replay.views import AGENT, FOLD, TASK, VIEWS

Hashes = dict[tuple[str, str], str]


async def replayed(log: Log) -> Hashes:
    found = {}
    for view in VIEWS:
        result = await replay(ReadOnlyLog(log), CATALOGUE, view)
        found.update({(view.name, owner): state_hash(state) for owner, state in result.states.items()})
    return found


async def followed(rng: Random, log: Log) -> Hashes:
    """Follows with random batches, overlaps, flushes, restarts, lost partitions and a cache that is much too small."""
    store = await SqliteStateStore.open(None)
    partitions = CATALOGUE.partitions(TOPICS)
    follower = StateFollower(store, CATALOGUE, max_cached_parts=rng.choice((0, 3, 1_000)))
    await follower.positions(partitions)
    todo = cuts(rng, log)
    while todo:
        batch = todo.pop(0)
        if rng.random() < 0.2 and batch.offsets[0] > 0:
            start = rng.randrange(batch.offsets[0])
            batch = batch_of(batch.topic_partition, log[batch.topic_partition][start : batch.next_offset], start)
        follower.apply(batch)
        if rng.random() < 0.3:
            await follower.flush()
        if rng.random() < 0.1:
            if rng.random() < 0.5:
                follower = StateFollower(store, CATALOGUE, max_cached_parts=2)
            follower.drop(partitions)
            resumed = await follower.positions(partitions)
            todo = [
                batch_of(one, log[one][start : start + 5], start)
                for one in partitions
                for start in range(resumed.get(one, 0), len(log[one]), 5)
            ]
    await follower.flush()
    found: Hashes = {}
    for view in VIEWS:
        for owner in await stored_owners(store, view, limit=1_000):
            state = await stored_state(store, view, owner)
            if state is not None:
                found[view.name, owner] = state.state_hash
    assert await stored_positions(store) == {one: len(values) for one, values in log.items() if values}
    await store.close()
    return found


@pytest.mark.slow
@settings(max_examples=40)
@given(rng=st.randoms(use_true_random=False), count=st.integers(1, 80))
def test_live_state_equals_replayed_state(rng: Random, count: int) -> None:
    log = random_log(rng, count)

    async def both() -> tuple[Hashes, Hashes]:
        return await followed(rng, log), await replayed(log)

    live, full = asyncio.run(both())
    assert live == full


@pytest.mark.slow
@settings(max_examples=20)
@given(rng=st.randoms(use_true_random=False), count=st.integers(1, 60))
def test_the_replay_of_one_owner_equals_its_state_in_the_replay_of_all(rng: Random, count: int) -> None:
    log = random_log(rng, count)

    async def compare() -> None:
        for view in VIEWS:
            every = await replay(ReadOnlyLog(log), CATALOGUE, view)
            for owner, state in every.states.items():
                assert (await replay(ReadOnlyLog(log), CATALOGUE, view, owner)).states == {owner: state}

    asyncio.run(compare())


@pytest.mark.slow
@settings(max_examples=20)
@given(rng=st.randoms(use_true_random=False), count=st.integers(1, 60))
def test_a_later_record_never_changes_the_answer_for_an_offset_vector(rng: Random, count: int) -> None:
    log = random_log(rng, count)
    ends = {partition: rng.randint(0, len(values)) for partition, values in log.items()}
    before = {partition: values[: ends[partition]] for partition, values in log.items()}

    async def both() -> None:
        for view in VIEWS:
            own = {partition: end for partition, end in ends.items() if partition.topic in view.topics}
            later = await replay(ReadOnlyLog(log), CATALOGUE, view, as_of_offsets=own)
            assert later.states == (await replay(ReadOnlyLog(before), CATALOGUE, view)).states
            assert later.as_of == own
            assert later.final

    asyncio.run(both())


# The same comparison must catch the two mistakes that look right in a small test.


async def in_arrival_order(rng: Random, log: Log) -> Hashes:
    """Wrong on purpose: one part for all partitions, fed in the order in which batches happen to arrive."""
    shared: list[dict[str, Part]] = [{} for _ in VIEWS]

    class Shared(PartitionFold):
        def __init__(self, *place: Any) -> None:
            super().__init__(FOLD, *place)
            self._young = shared

    folds = {one: Shared(one.topic, CATALOGUE.named(one.topic).base, one.partition) for one in log}
    for batch in cuts(rng, log):
        folds[batch.topic_partition].apply(batch)
    return {
        (view.name, owner): state_hash(state)
        for number, view in enumerate(VIEWS)
        for owner, part in shared[number].items()
        if (state := join(view, [(Place("all", 0), part)])) is not None
    }


async def with_float_sums(rng: Random, log: Log) -> Hashes:
    """Wrong on purpose: costs as floats, added in the order in which partitions happen to be joined."""
    folds = {one: PartitionFold(FOLD, one.topic, CATALOGUE.named(one.topic).base, one.partition) for one in log}
    for one, values in log.items():
        if values:
            folds[one].apply(batch_of(one, values))
    slot = list(AGENT.fields).index("cost_micro")
    found: Hashes = {}
    for owner in {owner for fold in folds.values() for owner in fold.parts(0)}:
        own = [(Place(*one), fold.parts(0)[owner]) for one, fold in folds.items() if owner in fold.parts(0)]
        rng.shuffle(own)
        state = join(AGENT, own)
        if state is not None:
            total = sum((part.slots[slot] / 3e6 for _, part in own), 0.0)
            found["agent", owner] = state_hash({**state, "cost_micro": total.hex()})
    return found


async def differs(fold: Callable[[Random, Log], Awaitable[Hashes]], other: Callable[[Random, Log], Awaitable[Hashes]], seeds: int) -> int:
    found = 0
    for seed in range(seeds):
        rng = Random(seed)  # noqa: S311  # the same histories at each run
        log = random_log(rng, 60)
        found += await fold(rng, log) != await other(rng, log)
    return found


async def test_a_fold_in_arrival_order_is_caught() -> None:
    async def full(_: Random, log: Log) -> Hashes:
        return await replayed(log)

    assert await differs(in_arrival_order, full, 12) > 0


async def test_sums_of_floats_are_caught() -> None:
    assert await differs(with_float_sums, with_float_sums, 40) > 0


# One promise each.


async def store_with(log: Log) -> SqliteStateStore:
    store = await SqliteStateStore.open(None)
    follower = StateFollower(store, CATALOGUE)
    await follower.positions(CATALOGUE.partitions(TOPICS))
    for partition, values in log.items():
        if values:
            follower.apply(batch_of(partition, values))
    await follower.flush()
    return store


async def test_a_stored_state_says_which_offsets_it_is_made_of() -> None:
    log = log_of([event("agent.started", "agent:a"), event("task.started", "task:t", {"agent_id": "a"})])
    store = await store_with(log)
    state = await stored_state(store, AGENT, "a")
    shown = state.shown()
    assert shown["status"] == "running"
    assert shown["active_tasks"] == ["t"]
    assert shown["as_of"] == {str(partition): len(values) for partition, values in log.items() if values}
    assert shown["coverage"] == "complete"
    assert await stored_state(store, AGENT, "b") is None
    await store.close()


async def test_a_state_whose_start_is_gone_says_so() -> None:
    store = await SqliteStateStore.open(None)
    follower = StateFollower(store, CATALOGUE)
    partition, values = next((one, values) for one, values in log_of([event("agent.started", "agent:a")]).items() if values)
    assert await follower.positions([partition]) == {}
    follower.apply(batch_of(partition, values, start=7))
    assert await follower.flush() == {partition: 8}
    assert (await stored_state(store, AGENT, "a")).coverage == "truncated"
    await store.close()


async def test_the_second_of_two_writers_yields_and_goes_on_from_the_store() -> None:
    log = log_of([event("task.created", "task:t", event_id=str(number)) for number in range(4)])
    partition, values = next((one, values) for one, values in log.items() if values)
    store = await SqliteStateStore.open(None)
    one, two = StateFollower(store, CATALOGUE), StateFollower(store, CATALOGUE)
    for follower in (one, two):
        await follower.positions([partition])
        follower.apply(batch_of(partition, values[:2]))
    await one.flush()
    with pytest.raises(PositionConflict):
        await two.flush()
    assert await two.positions([partition]) == {partition: 2}
    two.apply(batch_of(partition, values))
    await two.flush()
    assert (await stored_state(store, TASK, "t")).state["version"] == 4
    await store.close()


class Failing:
    """A store that refuses while ``down``; everything else goes to a real one."""

    def __init__(self, store: SqliteStateStore) -> None:
        self._store = store
        self.down = False

    def __getattr__(self, name: str) -> object:
        if self.down:
            raise StoreUnavailable("store", "down")
        return getattr(self._store, name)


async def test_a_batch_that_could_not_be_applied_leaves_no_trace() -> None:
    log = log_of([event("task.created", "task:t", event_id=str(number)) for number in range(4)])
    partition, values = next((one, values) for one, values in log.items() if values)
    store = Failing(await store_with({**empty_log(), partition: values[:2]}))
    follower = StateFollower(store, CATALOGUE)
    await follower.positions([partition])
    store.down = True
    with pytest.raises(StoreUnavailable):
        follower.apply(batch_of(partition, values[2:], 2))
    store.down = False
    follower.apply(batch_of(partition, values[2:], 2))
    store.down = True
    with pytest.raises(StoreUnavailable):
        await follower.flush()
    store.down = False
    await follower.flush()
    assert (await stored_state(store, TASK, "t")).state["version"] == 4
    await store.close()


async def test_parts_of_another_fold_are_made_anew_and_never_mixed(caplog: pytest.LogCaptureFixture) -> None:
    log = log_of([event("task.created", "task:t", event_id=str(number)) for number in range(4)])
    partition, values = next((one, values) for one, values in log.items() if values)
    store = await store_with({**empty_log(), partition: values[:3]})
    changed = type(FOLD)([AGENT, replace(TASK, version=2)], FOLD.schemas)
    assert changed.fold_id != FOLD.fold_id
    follower = StateFollower(store, CATALOGUE, fold=changed)
    assert await follower.positions([partition]) == {}
    assert follower.rebuilding == {partition}
    assert "made anew" in caplog.text
    assert await stored_state(store, TASK, "t", fold=changed) is None
    follower.apply(batch_of(partition, values[:1]))
    await follower.flush()
    assert follower.rebuilding == set()
    assert (await stored_state(store, TASK, "t", fold=changed)).state["version"] == 1
    assert await stored_state(store, TASK, "t") is None
    await store.close()


async def followed_with_restarts(partition: TopicPartition, values: list[bytes]) -> int:
    """The version of task t after following record by record, each by a new follower."""
    store = await SqliteStateStore.open(None)
    for offset, value in enumerate(values):
        follower = StateFollower(store, CATALOGUE)
        await follower.positions([partition])
        follower.apply(batch_of(partition, [value], offset))
        await follower.flush()
    version = (await stored_state(store, TASK, "t")).state["version"]
    await store.close()
    return version


async def test_a_record_sent_again_counts_once_also_long_after_and_over_restarts() -> None:
    events = [event("task.progressed", "task:t", {"progress_percent": 1}, event_id=str(number)) for number in range(40)]
    partition, values = next((one, values) for one, values in log_of(events).items() if values)
    assert await followed_with_restarts(partition, [*values, values[0], values[39]]) == 40


async def test_an_event_published_twice_under_its_id_counts_once_over_restarts() -> None:
    events = [event("task.progressed", "task:t", {"progress_percent": 1}, event_id=str(number % 30)) for number in range(60)]
    partition, values = next((one, values) for one, values in log_of(events).items() if values)
    assert await followed_with_restarts(partition, values) == 30


async def test_dead_letters_name_the_record_and_have_no_effect() -> None:
    good, bad, new = (
        event("task.completed", "task:t", {"agent_id": "a", "cost": 1}, event_id="1"),
        event("task.completed", "task:t", {"agent_id": "a", "cost": 1, "duration_ms": "soon"}, event_id="2"),
        event("task.completed", "task:t", {"agent_id": "a"}, event_id="3", version="99.0.0"),
    )
    partition, values = next((one, values) for one, values in log_of([good, bad, new]).items() if values)
    store = await SqliteStateStore.open(None)
    follower = StateFollower(store, CATALOGUE)
    await follower.positions([partition])
    letters = follower.apply(batch_of(partition, [b"{", *values, values[0]]))
    assert [(letter.index, letter.reason) for letter in letters] == [(0, "not_json"), (2, "bad_payload"), (3, "unknown_schema")]
    await follower.flush()
    for view, owner in ((TASK, "t"), (AGENT, "a")):
        state = (await stored_state(store, view, owner)).state
        assert (state["version"], state["cost_micro"]) == (1, 1_000_000)
    await store.close()


async def test_dead_letters_of_an_overlapping_batch_count_from_its_start() -> None:
    partition = TopicPartition("task-events", 0)
    store = await SqliteStateStore.open(None)
    follower = StateFollower(store, CATALOGUE)
    await follower.positions([partition])
    follower.apply(batch_of(partition, [b"{"]))
    assert [letter.index for letter in follower.apply(batch_of(partition, [b"{", b"{"]))] == [1]
    await store.close()
