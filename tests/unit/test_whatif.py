"""What would have been."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta

import pytest
from tests.unit.owner_histories import Rowed, dice, in_topics, owned, owners, projector, random_rows
from tests.unit.replay_histories import CATALOGUE, T0, event

from tallyroll.errors import InvalidEvent
from tallyroll.events.codec import decode
from tallyroll.events.recorded import events_rows, recorded
from tallyroll.events.rows import Rows
from tallyroll.replay.kinds import StateType
from tallyroll.replay.reduction import ProjectorReduction, ViewReduction
from tallyroll.replay.selection import take_rows
from tallyroll.replay.steps import final_state
from tallyroll.replay.views import TASK, VIEWS
from tallyroll.replay.whatif import Drop, Hypothesis, Insert, Replace, edited, what_if

EVENTS = [
    event("task.created", "task:t", {"agent_id": "a"}, at_s=0, event_id="e1"),
    event("task.started", "task:t", {"agent_id": "a", "tokens": 5}, at_s=10, event_id="e2"),
    event("task.failed", "task:t", {"agent_id": "a", "tokens": 7}, at_s=20, event_id="e3"),
]
PLACE = CATALOGUE.place("task.created", b"task:t")
HISTORY = {PLACE: events_rows(*PLACE, EVENTS)}
REDUCTION = ViewReduction(TASK, "t")


def without(rows: Rowed, event_id: str) -> Rowed:
    kept = {partition: [index for index, one in enumerate(some.ids) if one != event_id] for partition, some in rows.items()}
    return {partition: take_rows(rows[partition], indexes) for partition, indexes in kept.items() if indexes}


@pytest.mark.parametrize("seed", range(6))
def test_dropping_an_event_is_folding_a_log_without_it_and_no_edit_is_the_truth(seed: int) -> None:
    rows, rng = random_rows(seed), dice(seed)
    reductions = [(ViewReduction(view, owner), in_topics(rows, view)) for view in VIEWS for owner in owners(rows, view.owner)[:2]]
    reductions.append((ProjectorReduction(projector(), StateType.AGENT_STATE, "agent-1"), owned(rows, "agent", "agent-1")))
    for reduction, history in [pair for pair in reductions if pair[0].ordered(pair[1])]:
        truth = final_state(reduction, history)
        nothing = what_if(reduction, history, [])
        assert (nothing.truth, nothing.state, nothing.changes) == (truth, truth, [])
        chosen = rng.choice(reduction.ordered(history)).event_id
        found = what_if(reduction, history, [Drop(chosen)])
        assert (found.truth, found.state) == (truth, final_state(reduction, without(history, chosen)))


@pytest.mark.parametrize("seed", range(6))
def test_replacing_an_event_by_itself_changes_nothing(seed: int) -> None:
    rows, rng = random_rows(seed), dice(seed)
    reduction, history = ProjectorReduction(projector(), StateType.AGENT_STATE, "agent-1"), owned(rows, "agent", "agent-1")
    events = reduction.ordered(history)
    for one in rng.sample(events, min(5, len(events))):
        again = Replace(one.event_id, one.payload, str(one.event_type), one.timestamp, one.schema_version)
        assert what_if(reduction, history, [again]).changes == []


@pytest.mark.parametrize("seed", range(6))
def test_dropping_an_event_and_putting_it_back_changes_nothing(seed: int) -> None:
    rows, rng = random_rows(seed), dice(seed)
    reduction, history = ProjectorReduction(projector(), StateType.AGENT_STATE, "agent-1"), owned(rows, "agent", "agent-1")
    some = max(history.values(), key=len)
    at = rng.randrange(1, len(some))
    back = Insert(recorded(some, at).event, after=some.ids[at - 1])
    assert what_if(reduction, history, [Drop(some.ids[at]), back]).changes == []


def test_what_differs_is_told() -> None:
    found = what_if(REDUCTION, HISTORY, [Replace("e3", {"tokens": 1, "agent_id": "b"}, event_type="task.completed")])
    assert {change.path: change[1:] for change in found.changes} == {
        "status": ("failed", "completed"), "tokens": (12, 6), "agent_id": ("a", "b")
    }  # fmt: skip
    assert found.hypothetical
    assert found.state_hash != what_if(REDUCTION, HISTORY, []).state_hash


def test_an_event_put_in_counts_at_its_place() -> None:
    retry = event("task.progressed", "task:t", {"agent_id": "a", "tokens": 100}, at_s=15, event_id="new")
    after, before = (what_if(REDUCTION, HISTORY, [edit]) for edit in (Insert(retry, after="e2"), Insert(retry, before="e3")))
    assert after.state == before.state
    assert (after.state["version"], after.state["tokens"], after.state["status"]) == (4, 112, "failed")
    assert what_if(REDUCTION, HISTORY, [Insert(retry, after="e3")]).state["status"] == "running"
    assert what_if(REDUCTION, HISTORY, [Insert(retry, after="e2"), Drop("new")]).changes == []


def test_another_time_is_another_place_between_partitions() -> None:
    moved = edited(HISTORY, [Replace("e1", timestamp=T0 + timedelta(seconds=99))])
    assert moved[PLACE].times_us[0] == HISTORY[PLACE].times_us[0] + 99_000_000
    assert decode(moved[PLACE].values[0]).timestamp == T0 + timedelta(seconds=99)


def test_whole_records_are_edited_too() -> None:
    changed = recorded(edited(HISTORY, [Replace("e2", {"agent_id": "b"}, event_type="task.retry", schema_version="1.1.0")])[PLACE], 1)
    whole = changed.event
    assert (whole.payload, whole.event_type, whole.schema_version) == ({"agent_id": "b"}, "task.retry", "1.1.0")
    assert (changed.payload, changed.event_type, changed.agent_id, whole.metadata) == (whole.payload, "task.retry", "b", EVENTS[1].metadata)


def test_the_history_stays_as_it_is() -> None:
    before = [list(getattr(HISTORY[PLACE], name)) for name in ("ids", "data", "values", "times_us")]
    what_if(REDUCTION, HISTORY, [Drop("e1"), Replace("e2", {}), Insert(EVENTS[0], before="e3")])
    assert [list(getattr(HISTORY[PLACE], name)) for name in ("ids", "data", "values", "times_us")] == before


def test_everything_may_be_dropped() -> None:
    assert what_if(REDUCTION, HISTORY, [Drop("e1"), Drop("e2"), Drop("e3")]).state["version"] == 0


@pytest.mark.parametrize(
    "edit", [Drop("nobody"), Replace("nobody", {}), Insert(EVENTS[0], after="nobody"), Insert(EVENTS[0], before="nobody")]
)
def test_an_id_that_is_not_there_is_named(edit: Drop) -> None:
    with pytest.raises(ValueError, match="no event 'nobody'"):
        what_if(REDUCTION, HISTORY, [edit])


def test_edits_that_no_event_could_be_are_refused() -> None:
    with pytest.raises(InvalidEvent):
        what_if(REDUCTION, HISTORY, [Replace("e1", {"a": float("nan")})])
    with pytest.raises(ValueError, match="no event type"):
        what_if(REDUCTION, HISTORY, [Replace("e1", event_type="task.strated")])
    with pytest.raises(ValueError, match="zone"):
        what_if(REDUCTION, HISTORY, [Replace("e1", timestamp=T0.replace(tzinfo=None))])
    for wrong in ({}, {"after": "e1", "before": "e2"}):
        with pytest.raises(ValueError, match="name the event"):
            Insert(EVENTS[0], **wrong)
    whole = HISTORY[PLACE]
    bare = Rows(*PLACE, whole.offsets, whole.times_us, whole.types, whole.versions, whole.subjects, whole.data, whole.agents)
    with pytest.raises(ValueError, match="without ids"):
        what_if(REDUCTION, {PLACE: bare}, [Drop("e1")])


def test_a_hypothesis_can_only_be_looked_at() -> None:
    public = {name for name in dir(Hypothesis) if not name.startswith("_")}
    assert public == {field.name for field in fields(Hypothesis)} | {"hypothetical", "state_hash"}
