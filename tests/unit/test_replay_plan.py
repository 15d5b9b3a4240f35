"""A plan says what is read of archive and log, what is missing, and how complete the answer will be."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.events.event import AgentEvent
from tallyroll.events.position import TopicPartition
from tallyroll.ports import ArchiveMark, Span
from tallyroll.replay.jobs import side_by_side, split
from tallyroll.replay.plan import Extent, PartitionPlan, Plan, ReplayFilter, as_of_event_time, plan

P = TopicPartition("task-events", 0)
Q = TopicPartition("task-events", 1)


def one(extent: Extent, *, ends: dict | None = None, reducers: Sequence[str] = (), until_us: int | None = None) -> PartitionPlan:
    return plan({P: extent}, ends=ends, reducers=reducers, until_us=until_us).partitions[0]


def mark(first: int, sealed: int, following: int, **more: object) -> ArchiveMark:
    return ArchiveMark(first, sealed, following, b"r", **more)


def test_without_an_archive_the_log_is_read_from_its_start() -> None:
    found = one(Extent(None, 0, 10))
    assert (found.archive, found.log, found.missing) == ((0, 0), (0, 10), [])


def test_what_retention_took_is_missing() -> None:
    found = plan({P: Extent(None, 4, 10), Q: Extent(None, 0, 3)})
    assert (found.coverage, found.missing, found.records) == ("truncated", {P: [(0, 4)]}, 9)


def test_the_archive_stands_for_what_the_log_forgot() -> None:
    found = plan({P: Extent(mark(0, 5, 8), 6, 12)})
    assert (found.coverage, found.as_of) == ("complete", {P: 12})
    assert (found.partitions[0].archive, found.partitions[0].log, found.partitions[0].repeats) == ((0, 8), (8, 12), b"r")


def test_a_gap_between_archive_and_log_is_missing() -> None:
    found = one(Extent(mark(0, 5, 8), 10, 12))
    assert (found.archive, found.log, found.missing) == ((0, 8), (10, 12), [(8, 10)])


def test_a_log_that_reaches_further_back_than_the_archive_is_read_alone() -> None:
    found = one(Extent(mark(5, 8, 8), 0, 12))
    assert (found.archive, found.log, found.missing) == ((0, 0), (0, 12), [])


def test_an_archive_that_began_late_is_truncated() -> None:
    assert one(Extent(mark(5, 8, 8), 6, 12)).missing == [(0, 5)]


def test_an_accepted_hole_is_still_missing() -> None:
    found = one(Extent(mark(0, 8, 8, holes=(Span("task-events", 0, 2, 4),)), 8, 12))
    assert found.missing == [(2, 4)]


def test_snapshots_stand_for_what_was_pruned_only_for_their_reducer() -> None:
    pruned = Extent(mark(0, 8, 8, kept=6, kept_for=("r1",)), 8, 12)
    assert plan({P: pruned}, reducers=["r1"]).coverage == "from_snapshot"
    assert one(pruned, reducers=["r1"]).archive == (6, 8)
    assert one(pruned, reducers=["r2"]).missing == [(0, 6)]
    assert plan({P: pruned}, ends={P: 5}, reducers=["r1"]).coverage == "truncated"  # a state inside what is gone
    assert one(pruned, reducers=["r1", "r2"]).missing == [(0, 6)]  # all of them, or none


def test_snapshots_stand_for_no_moment_before_the_last_event_they_hold() -> None:
    pruned = Extent(mark(0, 8, 8, kept=6, kept_for=("r1",), kept_us=100), 8, 12)
    assert one(pruned, reducers=["r1"], until_us=100).missing == []
    assert one(pruned, reducers=["r1"], until_us=99).missing == [(0, 6)]


def test_what_was_lost_before_it_was_pruned_is_still_missing() -> None:
    holed = Extent(mark(2, 8, 8, kept=6, kept_for=("r1",), holes=(Span("task-events", 0, 3, 4),)), 8, 12)
    assert one(holed, reducers=["r1"]).missing == [(0, 2), (3, 4)]
    assert one(holed).missing == [(0, 6)]


def test_a_log_that_has_what_was_pruned_is_read_where_snapshots_do_not_stand_for_it() -> None:
    pruned = Extent(mark(0, 8, 8, kept=6, kept_for=("r1",)), 0, 12)
    assert (one(pruned).log, one(pruned).missing) == ((0, 12), [])
    assert (one(pruned, reducers=["r1"]).archive, one(pruned, reducers=["r1"]).pruned) == ((6, 8), 6)


def test_the_error_says_whether_pruning_took_what_is_gone() -> None:
    pruned, cut = Extent(mark(0, 8, 8, kept=6), 8, 12), Extent(None, 3, 12)
    error = plan({P: pruned}).gone({P: pruned})
    assert (error.missing, error.pruned) == ({str(P): 6}, True)
    assert plan({P: cut}).gone({P: cut}).pruned is False


def test_an_end_inside_the_archive_needs_no_log() -> None:
    found = one(Extent(mark(0, 5, 8), 8, 12), ends={P: 7})
    assert (found.archive, found.log, found.end, found.repeats) == ((0, 7), (7, 7), 7, b"")


def test_ends_that_do_not_exist_are_refused_and_others_are_not_read() -> None:
    extents = {P: Extent(None, 0, 5), Q: Extent(None, 0, 5)}
    with pytest.raises(ValueError, match="has no offset 6"):
        plan(extents, ends={P: 6})
    with pytest.raises(ValueError, match="no partition"):
        plan(extents, ends={TopicPartition("other", 0): 1})
    assert [one.partition for one in plan(extents, ends={Q: 5}).partitions] == [Q]


numbers = st.integers(0, 30)


@given(st.lists(numbers, min_size=5, max_size=5), st.sampled_from(("archived", "")), st.sampled_from(("ended", "")))
def test_what_is_read_and_what_is_missing_make_up_the_whole(given_numbers: list[int], archived: str, ended: str) -> None:
    first, sealed, following = sorted(given_numbers[:3])
    start, end = sorted(given_numbers[3:])
    there = mark(first, sealed, following) if archived and first < following else None
    whole = max(end, there.next if there is not None else 0)
    found = one(Extent(there, start, end), ends={P: whole // 2} if ended else None)
    covered = sorted(offset for low, high in (found.archive, found.log, *found.missing) for offset in range(low, high))
    assert covered == list(range(found.end))


def test_targets_and_filters_say_what_they_accept() -> None:
    with pytest.raises(ValueError, match="zone"):
        as_of_event_time(datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="0 or more"):
        as_of_event_time(datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=-1))
    with pytest.raises(ValueError, match="set of names"):
        ReplayFilter(event_types="task.created")
    with pytest.raises(ValueError, match="zone"):
        ReplayFilter(start_time=datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_filter_matches_by_every_member() -> None:
    event = AgentEvent("task.created", "t", "task", {"agent_id": "a"})
    at = event.timestamp
    correlation = event.metadata.correlation_id
    good = [
        ReplayFilter(),
        ReplayFilter(event_types={"task.created", "task.failed"}, aggregate_ids={"t"}, aggregate_types={"task"}),
        ReplayFilter(start_time=at, end_time=at, correlation_ids={correlation}),
        ReplayFilter(custom_predicate=lambda one: one.payload["agent_id"] == "a"),
        ReplayFilter(event_types=set()),
    ]
    tick = timedelta(microseconds=1)
    bad = [
        ReplayFilter(event_types={"task.failed"}),
        ReplayFilter(aggregate_ids={"u"}),
        ReplayFilter(aggregate_types={"agent"}),
        ReplayFilter(start_time=at + tick),
        ReplayFilter(end_time=at - tick),
        ReplayFilter(user_ids={"u"}),
        ReplayFilter(correlation_ids={"c"}),
        ReplayFilter(custom_predicate=lambda _: False),
    ]
    assert [one.matches(event) for one in (*good, *bad)] == [True] * len(good) + [False] * len(bad)
    assert not ReplayFilter(aggregate_ids={"t"}, aggregate_types={"task"}).narrows
    assert all(one.narrows for one in (bad[0], bad[3], bad[5], bad[7]))
    assert ReplayFilter(aggregate_ids={"t", "s"}, aggregate_types={"task"}).keys == ["task:s", "task:t"]


def part(number: int, archived: int, logged: int = 0) -> PartitionPlan:
    return PartitionPlan(TopicPartition("task-events", number), (0, archived), (archived, archived + logged), archived + logged)


SIZES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=24)


@given(sizes=SIZES, count=st.integers(1, 9), columnar=st.booleans())
def test_every_partition_is_read_in_one_process_and_this_one_is_never_idle(sizes: list, count: int, *, columnar: bool) -> None:
    whole = Plan([part(number, *size) for number, size in enumerate(sizes)])
    pieces = split(whole, count, columnar=columnar)
    assert sorted(one.partition for piece in pieces for one in piece.partitions) == [one.partition for one in whole.partitions]
    assert 1 <= len(pieces) <= count
    assert all(piece.partitions for piece in pieces) or not sizes


def test_others_begin_later_and_get_less_of_a_long_history_but_a_part_of_a_short_one() -> None:
    own, other = split(Plan([part(number, 100_000) for number in range(10)]), 2)
    assert (own.records, other.records) == (600_000, 400_000)
    assert [len(piece.partitions) for piece in split(Plan([part(number, 10) for number in range(8)]), 4)] == [3, 2, 2, 1]


def test_a_record_of_a_log_is_more_work_than_one_of_the_archive() -> None:
    archived, logged = [part(number, 1_000_000) for number in range(4)], [part(4, 0, 1_000_000)]
    own, _ = split(Plan([*archived, *logged]), 2)
    assert own.partitions == logged


async def counting(*given: int, fails: BaseException | None = None, ended: list | None = None) -> AsyncGenerator[int, None]:
    try:
        for one in given:
            yield one
        if fails is not None:
            raise fails
    finally:
        if ended is not None:
            ended.append(given)


async def test_runs_side_by_side_give_the_sum_of_what_they_gave_last() -> None:
    given = [one async for one in side_by_side([counting(1, 5, 9), counting(), counting(10)])]
    assert given[-1] == 19
    assert given == sorted(given)


async def test_when_a_run_fails_or_nobody_goes_on_all_of_them_end() -> None:
    ended: list[tuple[int, ...]] = []
    with pytest.raises(KeyError):
        async for _ in side_by_side([counting(*range(1_000), ended=ended), counting(1, fails=KeyError(), ended=ended)]):
            pass
    assert sorted(map(len, ended)) == [1, 1_000]
    left = side_by_side([counting(1, 2, ended=ended), counting(3, 4, ended=ended)])
    await anext(left)
    await left.aclose()
    assert len(ended) == 4
