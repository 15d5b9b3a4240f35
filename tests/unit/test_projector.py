"""Users' own reducers: registration, folding, what they may not do, and how they reach other processes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from tests.unit import owner_histories
from tests.unit.owner_histories import PROJECTED, counted, dice, empty, owned, owners, projector, random_rows, trail
from tests.unit.replay_histories import event

from tallyroll.errors import ReducerFailed
from tallyroll.events.recorded import events_rows, rows_events
from tallyroll.events.types import EventType
from tallyroll.replay.kinds import StateType
from tallyroll.replay.order import in_order
from tallyroll.replay.projector import StateProjector, Verdict, fold_events

AGENT = StateType.AGENT_STATE
STARTED, COMPLETED = event("task.started", "task:t", {"tokens": 1}), event("task.completed", "task:t", {"tokens": 2}, at_s=1)


def fold(made: StateProjector, *events: Any) -> Any:
    return fold_events(made, AGENT, "a", list(rows_events(events_rows("t", 3, events, first_offset=7))))


def with_handler(handler: Any, **options: Any) -> StateProjector:
    made = StateProjector(**options)
    made.register_projection(AGENT, None, handler)
    return made


@pytest.mark.parametrize("seed", range(15))
def test_a_fold_is_what_the_handlers_say_one_after_the_other(seed: int) -> None:
    rows, made, strict = random_rows(seed), projector(), projector(strict=True)
    for owner in owners(rows, "agent"):
        history = owned(rows, "agent", owner)
        state = empty(owner)
        events = [one for one in in_order(history, PROJECTED) if one.event_type in PROJECTED]
        for one in events:
            state = (counted if one.event_type == "task.completed" else trail)(state, one)
        found = fold_events(made, AGENT, owner, in_order(history, made.types(AGENT)))
        assert (found.state, found.version) == (state, len(events))
        assert fold_events(strict, AGENT, owner, in_order(history, made.types(AGENT))) == found
        stepped = made.initialize_state(AGENT, owner)
        for one in in_order(history, made.types(AGENT)):
            stepped = made.apply_event(AGENT, stepped, one)
        assert stepped == state


@pytest.mark.parametrize("seed", range(10))
def test_events_without_a_handler_change_neither_state_nor_order(seed: int) -> None:
    rows, made = random_rows(seed), projector()
    for owner in owners(rows, "agent"):
        history = owned(rows, "agent", owner)
        only = dict(history)
        narrowed = fold_events(made, AGENT, owner, in_order(only, made.types(AGENT)))
        assert [one.event_type in PROJECTED for one in in_order(only, made.types(AGENT))] == [True] * narrowed.version


def test_the_known_registrations_take_the_known_order() -> None:
    made = StateProjector()
    made.register_projection(StateType.AGENT_STATE, EventType.TASK_STARTED, lambda state, _one: {**state, "status": "running"})
    made.register_initializer(StateType.AGENT_STATE, lambda owner: {"id": owner})
    made.register_validator(StateType.AGENT_STATE, lambda state: "status" in state)
    assert made.initialize_state(AGENT, "a") == {"id": "a"}
    assert made.apply_event(AGENT, {"id": "a"}, STARTED) == {"id": "a", "status": "running"}
    assert made.apply_event(AGENT, {"id": "a"}, COMPLETED) == {"id": "a"}
    assert made.validate_state(AGENT, {"status": 1})
    assert not made.validate_state(AGENT, {})
    assert made.types(AGENT) == {"task.started"}
    assert made.types(StateType.TASK_STATE) == frozenset()


@pytest.mark.parametrize("everything", ["*", None])
def test_an_own_handler_comes_before_the_one_for_all(everything: str | None) -> None:
    made = StateProjector()
    made.register_projection(AGENT, everything, lambda state, _one: {**state, "any": state.get("any", 0) + 1})
    made.register_projection(AGENT, "task.started", lambda state, _one: {**state, "own": 1})
    assert fold(made, STARTED, COMPLETED, COMPLETED).state == {"own": 1, "any": 2}
    assert made.types(AGENT) is None


def test_what_cannot_be_registered() -> None:
    made = with_handler(trail)
    with pytest.raises(ValueError, match="already has the handler trail"):
        made.register_projection(AGENT, "*", counted)
    with pytest.raises(ValueError, match="no kind of state; there are agent_state"):
        made.register_projection("agents", "*", counted)
    with pytest.raises(TypeError, match="expected a function"):
        made.register_validator(AGENT, 3)
    made.register_initializer(AGENT, empty)
    with pytest.raises(ValueError, match="already has the initializer"):
        made.register_initializer(AGENT, empty)
    with pytest.raises(TypeError, match="register them"):
        type("Mine", (StateProjector,), {})


@pytest.mark.parametrize("strict", [False, True])
def test_a_handler_that_raises_is_named_with_the_event_and_not_with_its_content(strict: object) -> None:
    def breaks(_state: dict, one: Any) -> dict:
        raise KeyError(f"secret {one.payload}")

    with pytest.raises(ReducerFailed, match=r"breaks failed at t/3/7 \(task.started\): KeyError$") as caught:
        fold(with_handler(breaks, strict=bool(strict)), STARTED)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("strict", [False, True])
def test_a_handler_that_returns_nothing_is_an_error(strict: object) -> None:
    made = with_handler(lambda _state, _one: None, strict=bool(strict))
    with pytest.raises(ReducerFailed, match="returned NoneType"):
        fold(made, STARTED)
    with pytest.raises(ReducerFailed, match=f"event {STARTED.event_id} .*returned NoneType"):
        made.apply_event(AGENT, {}, STARTED)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"b": 0.5}, r"state\.a\.b: float"),
        ([{1, 2}], r"state\.a\[0\]: set"),
        (2**63, r"state\.a: beyond 64 bits"),
        ({1: 2}, r"state\.a: dict"),
    ],
)
def test_a_value_that_no_state_can_hold_is_named_by_its_path(value: Any, said: str) -> None:
    with pytest.raises(ReducerFailed, match=said):
        fold(with_handler(lambda state, _one: {**state, "a": value}), STARTED, COMPLETED)


def test_strict_finds_the_event_at_which_it_came_in() -> None:
    def average(_state: dict, one: Any) -> dict:
        return {"a": 0.5 if one.payload["tokens"] == 1 else 1}

    assert fold(with_handler(average), STARTED, COMPLETED).state == {"a": 1}
    with pytest.raises(ReducerFailed, match=r"t/3/7 \(task.started\): state\.a: float"):
        fold(with_handler(average, strict=True), STARTED, COMPLETED)


def test_strict_finds_changes_of_what_was_given() -> None:
    def in_place(state: dict, _one: Any) -> dict:
        state["n"] = state.get("n", 0) + 1
        return state

    def in_payload(_state: dict, one: Any) -> dict:
        one.payload["tokens"] = 0
        return {}

    assert fold(with_handler(in_place), STARTED, COMPLETED).state == {"n": 2}
    with pytest.raises(ReducerFailed, match="changed the state"):
        fold(with_handler(in_place, strict=True), STARTED)
    with pytest.raises(ReducerFailed, match="changed the payload"):
        fold(with_handler(in_payload, strict=True), STARTED)


def test_failures_of_the_source_of_events_are_not_the_handlers() -> None:
    def events() -> Any:
        yield from rows_events(events_rows("t", 0, [STARTED]))
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fold_events(projector(), AGENT, "a", events())


@pytest.mark.parametrize(
    ("said", "problems"),
    [(True, ()), (None, ()), ([], ()), (["a", "b"], ("a", "b")), (False, ("<lambda> says no",))],
)
def test_verdicts(said: object, problems: tuple[str, ...]) -> None:
    made = StateProjector()
    made.register_validator(AGENT, lambda _state: said)
    verdict = made.validate_state(AGENT, {})
    assert [problem.rpartition(".")[2] for problem in verdict.problems] == list(problems)
    assert bool(verdict) is not bool(problems)


def test_a_validator_may_raise_what_it_found_and_nothing_else() -> None:
    def asserts(state: dict) -> None:
        assert "n" in state, "no n"

    made = with_handler(lambda state, _one: state)
    made.register_validator(AGENT, asserts)
    verdict = fold(made, STARTED).verdict
    assert not verdict
    assert verdict.problems[0].startswith("no n")
    assert fold(with_handler(lambda state, _one: state), STARTED).verdict == Verdict()
    made.register_validator(AGENT, lambda state: state["n"] > 0)
    with pytest.raises(ReducerFailed, match="KeyError"):
        made.validate_state(AGENT, {})
    wrong = StateProjector()
    wrong.register_validator(AGENT, lambda _state: 7)
    with pytest.raises(ReducerFailed, match="returned int"):
        wrong.validate_state(AGENT, {})


def test_an_initializer_that_fails_is_named() -> None:
    made = StateProjector()
    made.register_initializer(AGENT, lambda _owner: None)
    with pytest.raises(ReducerFailed, match="at the start: it returned NoneType"):
        made.initialize_state(AGENT, "a")


def test_a_reference_gives_an_equal_projector() -> None:
    made = projector(version=3)
    again = StateProjector.from_reference(made.reference())
    assert again.reference() == made.reference()
    assert again.reducer_id(AGENT) == made.reducer_id(AGENT)
    rows = random_rows(1)
    history = owned(rows, "agent", "agent-1")
    assert fold_events(again, AGENT, "x", in_order(history)) == fold_events(made, AGENT, "x", in_order(history))


def test_the_reducer_id_names_version_and_handlers() -> None:
    ids = {projector(version=version).reducer_id(AGENT) for version in (1, 2)}
    more = projector(version=1)
    more.register_projection(AGENT, "agent.stopped", trail)
    assert len(ids | {more.reducer_id(AGENT), projector(version=1).reducer_id(StateType.TASK_STATE)}) == 4
    assert projector().reducer_id(AGENT) is None


class Methods:
    def handler(self, state: dict, _one: Any) -> dict:
        return state


def replaced(state: dict, _one: Any) -> dict:
    return state


_original = replaced


def replaced(state: dict, _one: Any) -> dict:  # the name stands for another function now
    return state


@pytest.mark.parametrize("handler", [lambda state, _one: state, Methods().handler, _original])
def test_code_that_other_processes_cannot_import_is_refused(handler: Any) -> None:
    with pytest.raises(ValueError, match="at the top of a module"):
        with_handler(handler).reference()


def test_functions_of_a_script_are_refused() -> None:
    script = (
        "from tallyroll.replay.projector import *\nfrom tallyroll.replay.kinds import *\ndef h(s, e): return s\n"
        "p = StateProjector()\np.register_projection(StateType.AGENT_STATE, '*', h)\np.reference()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "define it by name at the top of a module that can be imported" in done.stderr


def test_references_are_plain_data() -> None:
    named = projector(version=1).reference()
    assert ("agent_state", "task.completed", f"{owner_histories.__name__}:counted") in named.handlers
    assert named.initializers == (("agent_state", f"{owner_histories.__name__}:empty"),)


def test_order_of_arrival_gives_other_states_at_least_once() -> None:
    differ = 0
    for seed in range(20):
        history = owned(random_rows(seed), "agent", "agent-1")
        arrived = [one for _, rows in sorted(history.items(), key=lambda _: dice(seed).random()) for one in rows_events(rows)]
        differ += fold_events(projector(), AGENT, "a", arrived) != fold_events(projector(), AGENT, "a", in_order(history, PROJECTED))
    assert differ
