"""A fold narrowed to a view or an owner: what it keeps, and what it still judges for all."""

from __future__ import annotations

import gc

import pytest

from tallyroll.events.batch import Batch
from tallyroll.events.rows import Rows, Subject
from tallyroll.replay.applied import Applied
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.views import FOLD

DOCUMENT = (
    '{"specversion":"1.0","id":"%s","source":"s","type":"task.progressed","time":"2026-01-31T12:00:00Z",'
    '"aggregatetype":"task","aggregateid":"%s","data":%s}'
)
GOOD = b'{"agent_id":"a","progress_percent":50,"tokens":3}'
BAD = b'{"agent_id":"a","progress_percent":"half","tokens":3}'  # only the task view reads the percentage
AGENT, TASK = FOLD.index("agent"), FOLD.index("task")


def fold(view: int | None = None, owner: str | None = None) -> PartitionFold:
    return PartitionFold(FOLD, "task-events", "task-events", 0, view=view, owner=owner)


def folded(one: PartitionFold, payloads: list[bytes], *, archived: bool) -> Applied:
    count = len(payloads)
    if archived:
        one_of = ["task.progressed"] * count, ["1.0.0"] * count, [Subject("task", "t")] * count
        return one.apply_rows(Rows("task-events", 0, range(count), [1] * count, *one_of, payloads, ["a"] * count))
    values = [(DOCUMENT % (index, "t", data.decode())).encode() for index, data in enumerate(payloads)]
    return one.apply(Batch("task-events", 0, offsets=range(count), keys=[None] * count, values=values, timestamps_ms=[0] * count))


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("view", [None, AGENT, TASK])
def test_a_value_that_any_view_cannot_read_voids_the_record_for_every_view(view: int | None, *, archived: bool) -> None:
    one = fold(view)
    applied = folded(one, [GOOD, BAD, GOOD], archived=archived)
    assert (applied.changed, [(found.index, found.kind, found.reason) for found in applied.found]) == (2, [(1, "poison", "bad_payload")])
    assert {part.version for number in range(len(FOLD.views)) for part in one.parts(number).values()} == {2}


@pytest.mark.parametrize("archived", [False, True])
def test_a_narrowed_fold_keeps_the_parts_of_its_view_and_owner_only(*, archived: bool) -> None:
    other = GOOD.replace(b'"a"', b'"b"')
    one = fold(AGENT, "a")
    assert folded(one, [GOOD, other, GOOD], archived=archived).changed == 2
    assert {number: list(one.parts(number)) for number in range(len(FOLD.views)) if one.parts(number)} == {AGENT: ["a"]}
    assert one.aggregates == {"task:t"}


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("collecting", [False, True])
def test_the_collector_is_left_as_it_was(*, archived: bool, collecting: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        folded(fold(), [GOOD], archived=archived)
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()
