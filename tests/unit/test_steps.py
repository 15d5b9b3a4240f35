"""How a state came about: every question against the plain way of answering it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from tests.unit.owner_histories import Rowed, dice, in_topics, owned, owners, projector, random_rows
from tests.unit.replay_histories import CATALOGUE, T0, ReadOnlyLog, event, log_of, random_log, replay

from tallyroll.errors import ReducerFailed
from tallyroll.events.position import TopicPartition
from tallyroll.events.recorded import events_rows
from tallyroll.replay.differences import Change, diff
from tallyroll.replay.kinds import StateType
from tallyroll.replay.order import in_order
from tallyroll.replay.projector import StateProjector, fold_events
from tallyroll.replay.reduction import ProjectorReduction, Reduction, ViewReduction
from tallyroll.replay.selection import take_rows
from tallyroll.replay.steps import Boundary, explain, final_state, first_true, step_at_version, steps
from tallyroll.replay.views import AGENT, TASK, VIEWS, WORKFLOW

STATE = StateType.AGENT_STATE


def prefix(rows: Rowed, ends: dict[TopicPartition, int]) -> Rowed:
    kept = {
        partition: [index for index, offset in enumerate(some.offsets) if offset < ends.get(partition, 0)]
        for partition, some in rows.items()
    }
    return {partition: take_rows(rows[partition], indexes) for partition, indexes in kept.items() if indexes}


def reductions(seed: int) -> Iterator[tuple[Reduction, Rowed]]:
    rows = random_rows(seed)
    for view in VIEWS:
        for owner in owners(rows, view.owner)[:2]:
            yield ViewReduction(view, owner), owned(in_topics(rows, view), view.owner, owner)
    for owner in owners(rows, "agent")[:2]:
        yield ProjectorReduction(projector(), STATE, owner), owned(rows, "agent", owner)


@pytest.mark.parametrize("seed", range(6))
async def test_the_last_step_is_what_a_replay_says(seed: int) -> None:
    log = random_log(dice(seed), 120)
    rows = random_rows(seed)
    compared = 0
    for view in VIEWS:
        truth = (await replay(ReadOnlyLog(log), CATALOGUE, view)).states
        for owner, state in truth.items():
            found = list(steps(ViewReduction(view, owner), in_topics(rows, view)))
            assert found[-1].state == state
            assert len(found) == state["version"]
            compared += 1
    assert compared > 8


@pytest.mark.parametrize("seed", range(5))
def test_the_nth_step_is_the_fold_of_the_first_n_events(seed: int) -> None:
    for reduction, history in reductions(seed):
        ends: dict[TopicPartition, int] = {}
        before = final_state(reduction, {})
        for number, step in enumerate(steps(reduction, history), 1):
            ends[step.event.rows.topic_partition] = step.event.position.offset + 1
            assert step.number == number
            assert step.state == final_state(reduction, prefix(history, ends))
            assert step.changes == diff(before, step.state)
            before = step.state


def test_a_projectors_steps_are_folds_of_its_events() -> None:
    for seed in range(6):
        rows, made = random_rows(seed), projector()
        history = owned(rows, "agent", "agent-1")
        found = list(steps(ProjectorReduction(made, STATE, "agent-1"), history))
        expected = fold_events(made, STATE, "agent-1", in_order(history, made.types(STATE)))
        assert (found[-1].state, len(found)) == (expected.state, expected.version)


def test_states_of_steps_stay_as_they_were_when_handlers_change_them_in_place() -> None:
    def handler(state: dict, one: object) -> dict:
        state.setdefault("seen", []).append(one.payload["n"])
        return state

    made = StateProjector()
    made.register_projection(STATE, "*", handler)
    history = {TopicPartition("t", 0): events_rows("t", 0, [event("task.started", "task:t", {"n": n}, at_s=n) for n in range(3)])}
    assert [step.state for step in steps(ProjectorReduction(made, STATE, "a"), history)] == [{"seen": list(range(n + 1))} for n in range(3)]


@pytest.mark.parametrize("seed", range(5))
def test_steps_may_start_later(seed: int) -> None:
    for reduction, history in reductions(seed):
        whole = list(steps(reduction, history))
        for after in {0, len(whole) // 2, len(whole)}:
            assert [step[2:] for step in steps(reduction, history, after=after)] == [step[2:] for step in whole[after:]]


PREDICATES = {
    "tokens grow": lambda state: (state.get("tokens") or 0) > 100,
    "version grows": lambda state: state.get("version", len(state.get("trail", ()))) >= 5,
}
FLIPPING = {
    "running": lambda state: state.get("status") == "running",
    "second last tool": lambda state: state.get("last") == "shell",
    "even": lambda state: state.get("version", len(state.get("trail", ()))) % 4 == 3,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", [*PREDICATES, *FLIPPING])
def test_the_first_true_step_is_the_first_of_all_steps_that_is_true(seed: int, name: str) -> None:
    predicate = {**PREDICATES, **FLIPPING}[name]
    for reduction, history in reductions(seed):
        found = first_true(predicate, reduction, history)
        expected = next((step for step in steps(reduction, history) if predicate(step.state)), None)
        assert found.exact
        assert (found.step and found.step[2:]) == (expected and expected[2:])
        assert (found.step and found.step.number) == (expected and expected.number)
        assert found.evaluated == (expected.number if expected else len(list(steps(reduction, history))))


def random_boundaries(seed: int, reduction: Reduction, history: Rowed, count: int) -> list[Boundary]:
    """States at offsets that grow, partition by partition at random: no prefixes of the order of events."""
    rng, ends, found = dice(seed), dict.fromkeys(history, 0), []
    for _ in range(count):
        for partition, rows in history.items():
            ends[partition] = min(rows.offsets[-1] + 1, ends[partition] + rng.randrange(rows.offsets[-1] // count * 2 + 2))
        found.append(Boundary(dict(ends), final_state(reduction, prefix(history, ends))))
    return found


@pytest.mark.parametrize("name", PREDICATES)
def test_halves_find_the_same_event_where_the_predicate_never_turns_back(name: str) -> None:
    predicate, fewer = PREDICATES[name], 0
    for seed in range(8):
        for reduction, history in reductions(seed):
            boundaries = random_boundaries(seed, reduction, history, 6)
            exact = first_true(predicate, reduction, history)
            found = first_true(predicate, reduction, history, monotone=True, boundaries=boundaries)
            assert (found.step and found.step.number) == (exact.step and exact.step.number)
            assert not found.exact
            fewer += found.evaluated < exact.evaluated
    assert fewer


def test_halves_find_another_event_where_the_predicate_turns_back() -> None:
    differ = 0
    for seed in range(8):
        for reduction, history in reductions(seed):
            boundaries = random_boundaries(seed, reduction, history, 6)
            for predicate in FLIPPING.values():
                exact = first_true(predicate, reduction, history)
                found = first_true(predicate, reduction, history, monotone=True, boundaries=boundaries)
                assert found.step is None or predicate(found.step.state)
                differ += (found.step and found.step.number) != (exact.step and exact.step.number)
    assert differ


def test_searching_by_halves_needs_the_word_for_it_and_rising_offsets() -> None:
    place = TopicPartition("task-events", 0)
    low, high = Boundary({place: 1}, {}), Boundary({place: 2}, {})
    with pytest.raises(ValueError, match="monotone"):
        first_true(bool, ViewReduction(TASK, "t"), {}, boundaries=[low])
    with pytest.raises(ValueError, match="offsets fall"):
        first_true(bool, ViewReduction(TASK, "t"), {}, monotone=True, boundaries=[high, low])


def test_a_predicate_that_raises_is_named_with_the_event() -> None:
    reduction, history = ViewReduction(AGENT, "agent-1"), random_rows(1)
    with pytest.raises(ReducerFailed, match=r"predicate failed at .*-events/\d/\d+ \(.*\): KeyError"):
        first_true(lambda state: state["nothing"], reduction, history)
    with pytest.raises(ReducerFailed, match="a boundary"):
        first_true(lambda state: state["nothing"], reduction, history, monotone=True, boundaries=[Boundary({}, {})])


@pytest.mark.parametrize("seed", range(4))
def test_between_two_counts_every_change_has_the_events_that_made_it(seed: int) -> None:
    rng = dice(seed)
    for reduction, history in reductions(seed):
        walked = list(steps(reduction, history))
        low = rng.randrange(len(walked) + 1)
        high = rng.randint(low, len(walked))
        before = walked[low - 1].state if low else final_state(reduction, {})
        after = walked[high - 1].state if high else final_state(reduction, {})
        found = explain(reduction, history, low, high)
        assert [Change(one.path, one.old, one.new) for one in found] == diff(before, after)
        for one in found:
            assert one.events
            assert {made.position for made in one.events} <= {step.event.position for step in walked[low:high]}
            last = next(step for step in reversed(walked[low:high]) if any(change.path == one.path for change in step.changes))
            assert last.event.position == one.events[-1].position


def test_between_two_times_and_between_two_offset_vectors() -> None:
    events = [
        event("task.created", "task:t", {"agent_id": "a"}, at_s=0),
        event("task.started", "task:t", {"agent_id": "a", "tokens": 5}, at_s=10),
        event("task.completed", "task:t", {"agent_id": "a", "tokens": 7}, at_s=20),
    ]
    place = CATALOGUE.place("task.created", b"task:t")
    history = {place: events_rows(*place, events)}
    reduction = ViewReduction(TASK, "t")
    by_time = explain(reduction, history, T0, T0 + timedelta(seconds=10))
    by_offset = explain(reduction, history, {place: 1}, {place: 2})
    assert [one[:3] for one in by_time] == [one[:3] for one in by_offset]
    assert {one.path: (one.old, one.new) for one in by_time}["tokens"] == (0, 5)
    assert {made.event_id for one in by_time for made in one.events} == {events[1].event_id}
    with pytest.raises(ValueError, match="the earlier moment has events"):
        explain(reduction, history, 2, 1)
    with pytest.raises(ValueError, match="zone"):
        explain(reduction, history, 0, T0.replace(tzinfo=None))
    assert [one[:3] for one in explain(reduction, history, 1, {})] == [one[:3] for one in explain(reduction, history, 1, 3)]


def test_as_of_a_version_where_the_events_have_one_order() -> None:
    events = [event("workflow.started", "workflow:w", at_s=0), event("workflow.step.completed", "workflow:w", {"step": "s"}, at_s=1)]
    place = CATALOGUE.place("workflow.started", b"workflow:w")
    history = {place: events_rows(*place, events)}
    found = step_at_version(ViewReduction(WORKFLOW, "w"), history, 2)
    assert (found.state["version"], found.state["last_step"], found.event.event_id) == (2, "s", events[1].event_id)
    for wrong in (0, 3):
        with pytest.raises(ValueError, match="expected 1 to 2"):
            step_at_version(ViewReduction(WORKFLOW, "w"), history, wrong)
    with pytest.raises(ValueError, match="many partitions"):
        step_at_version(ViewReduction(AGENT, "a"), history, 1)
    both = {**history, TopicPartition("task-events", 0): events_rows("task-events", 0, [event("task.started", "task:w")])}
    made = projector()
    made.register_projection(STATE, "*", lambda state, _one: state)
    with pytest.raises(ValueError, match="2 partitions"):
        step_at_version(ProjectorReduction(made, STATE, "w"), both, 1)


def test_a_topic_with_a_prefix_is_read_by_its_base_name() -> None:
    place = TopicPartition("eu.task-events", 0)
    history = {place: events_rows(*place, [event("task.started", "task:t")])}
    assert final_state(ViewReduction(TASK, "t", {"eu.task-events": "task-events"}), history)["status"] == "running"
    assert final_state(ViewReduction(TASK, "t"), history)["version"] == 0


def test_before_the_first_event_a_state_has_the_shape_of_all_others() -> None:
    for view in VIEWS:
        assert final_state(ViewReduction(view, "x"), {})["version"] == 0
    rows = random_rows(2)
    assert final_state(ViewReduction(AGENT, "agent-1"), {}).keys() == final_state(ViewReduction(AGENT, "agent-1"), rows).keys()
    assert log_of([])
