"""Starts and ends: followed all at once or one after the other, the same is found, and the same stays open."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.analytics.pairs import EXPIRY_US, MAX_ID_LENGTH, OpenPairs, PairKind, Steps, follow

KINDS = (PairKind("k", "start", ("end",), "id"), PairKind("other", "x", ("y",), "id"))
NAMES = [*"abcde", "f" * MAX_ID_LENGTH]
HOUR_US = EXPIRY_US // 24

Event = tuple[int, int, bool, bool, int]
"""Partition, id, whether it starts, whether it ends, and how far event time goes on, in hours."""

EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, len(NAMES) - 1), st.booleans(), st.booleans(), st.sampled_from([0, 0, 0, 1, 5, 11])).filter(
        lambda one: one[2] or one[3]
    ),
    max_size=60,
)


def steps_of(events: list[Event], first_row: int, clock: dict[int, int]) -> Steps:
    """The columns; those of one partition together, as in a run."""
    columns: list[tuple[int, int, int, bool, bool, int, int]] = []
    for partition in range(3):
        for own, name, starts, ends, hours in events:
            if own == partition:
                clock[partition] = clock.get(partition, 0) + hours * HOUR_US
                columns.append((first_row + 2 * len(columns), own, name, starts, ends, clock[partition] - hours * 7, clock[partition]))
    kinds = (np.int32, np.intp, np.int32, np.bool_, np.bool_, np.int64, np.int64)
    made = zip(*columns, strict=True) if columns else [()] * len(kinds)
    return Steps(*(np.array(one, kind) for one, kind in zip(made, kinds, strict=True)))


class Plain:
    """One partition, event by event."""

    def __init__(self, limit: int) -> None:
        self.open: dict[str, tuple[int, int]] = {}
        self.limit = limit
        self.lost = 0

    def step(self, name: str, time: int, watermark: int, *, starts: bool, ends: bool) -> int | None:
        took = None
        if ends and name in self.open:
            started, since = self.open.pop(name)
            if watermark - since > EXPIRY_US:
                self.lost += 1
            else:
                took = time - started
        if starts:
            self.open[name] = (time, watermark)
            if len(self.open) > self.limit:
                self.open.pop(min(self.open, key=lambda one: (self.open[one][1], one)))
                self.lost += 1
        return took


@pytest.mark.parametrize("limit", [2, 100])  # one after the other where somebody has to go, else all at once
@given(st.lists(EVENTS, max_size=5))
def test_what_is_found_and_what_stays_open_is_as_event_by_event(limit, runs):
    partitions = [OpenPairs(KINDS, max_open=limit * len(KINDS)) for _ in range(3)]
    plain, clock, row = [Plain(limit) for _ in range(3)], dict[int, int](), 0
    stored: list[dict[str, tuple[int, int]]] = [{} for _ in range(3)]
    for events in runs:
        steps = steps_of(events, row, clock)
        rows, took_us = follow("k", partitions, steps, NAMES)
        expected = [
            (at, took)
            for at, of, name, starts, ends, time, watermark in zip(*(column.tolist() for column in steps), strict=True)
            if (took := plain[of].step(NAMES[name], time, watermark, starts=starts, ends=ends)) is not None
        ]
        assert list(zip(rows.tolist(), took_us.tolist(), strict=True)) == expected
        row += 2 * len(events) + 1
        for pairs, known in zip(partitions, stored, strict=True):
            changes = pairs.take_changes()
            known.update({pair.id: (pair.start_us, pair.since_us) for pair in changes.opened})
            for _, name in changes.closed:
                del known[name]
    assert [one.open for one in plain] == stored
    assert [one.lost for one in plain] == [pairs.take_expired() for pairs in partitions]
