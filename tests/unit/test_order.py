"""The one order of an owner's events."""

from __future__ import annotations

import pytest
from tests.unit.owner_histories import PROJECTED, Rowed, dice, owned, owners, random_rows

from tallyroll.replay.order import by_order_key, in_order


def by_sorting(history: Rowed, types: tuple[str, ...] | None) -> list:
    keyed = []
    for partition, rows in history.items():
        order_us = 0
        for index, offset in enumerate(rows.offsets):
            if rows.data[index][:1] != b"{" or (types is not None and rows.types[index] not in types):
                continue
            order_us = max(order_us, rows.times_us[index])
            keyed.append((order_us, partition.topic, partition.partition, offset))
    return [key[1:] for key in sorted(keyed)]


@pytest.mark.parametrize("types", [None, PROJECTED])
@pytest.mark.parametrize("seed", range(15))
def test_merging_is_sorting_by_the_order_key(seed: int, types: tuple[str, ...] | None) -> None:
    rows = random_rows(seed)
    for owner in owners(rows, "agent"):
        history = owned(rows, "agent", owner)
        shuffled = dict(sorted(history.items(), key=lambda _: dice(seed).random()))
        found = [event.position for event in in_order(shuffled, types)]
        assert [(place.topic, place.partition, place.offset) for place in found] == by_sorting(history, types)


def test_order_of_arrival_is_another_one() -> None:
    differ = 0
    for seed in range(20):
        history = owned(random_rows(seed), "agent", "agent-1")
        arrived = [rows.position(index) for _, rows in sorted(history.items()) for index in range(len(rows))]
        differ += arrived != [event.position for event in in_order(history)]
    assert differ > 10


def test_sorting_by_time_alone_is_another_one() -> None:
    differ = 0
    for seed in range(20):
        events = list(in_order(owned(random_rows(seed), "agent", "agent-1")))
        differ += sorted(events, key=lambda event: event.timestamp_us) != events
    assert differ > 5


def test_equal_times_go_by_partition_then_offset() -> None:
    assert by_order_key([[5, 5], [5], [1, 9]]) == [2, 0, 0, 1, 2]
    assert by_order_key([]) == []
    assert list(in_order({})) == []
