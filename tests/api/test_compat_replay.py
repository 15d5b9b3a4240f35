"""Replay under the names that users know: every form in which they call them, on the default roll."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

import tallyroll
from tallyroll.compat import event_replay
from tallyroll.compat.event_replay import (
    EventReplayEngine,
    ReplayEngine,
    ReplayFilter,
    ReplayMode,
    StateProjector,
    StateSnapshot,
    StateType,
    compare_states,
    get_reconstructed_state,
    get_replay_engine,
    replay_agent_state,
    replay_events,
    replay_task_state,
)
from tallyroll.replay.views import TASK

pytestmark = pytest.mark.usefixtures("published")
TASK_EVENTS = ("task.created", "task.started", "task.completed")


@pytest.fixture
async def published() -> AsyncIterator[None]:
    """One agent that has done one of its two tasks, on the default roll."""
    tallyroll.configure("sqlite://:memory:")
    await tallyroll.publish_agent_event("agent.started", "agent-1", {"agent_type": "coder"})
    for kind in TASK_EVENTS:
        await tallyroll.publish_task_event(kind, "task-1", {"agent_id": "agent-1", "task_type": "review"})
    await tallyroll.publish_task_event("task.created", "task-2", {"agent_id": "agent-1"})
    yield
    await tallyroll.close_default()
    tallyroll.reset_defaults()


def test_the_names_are_those_of_their_homes() -> None:
    assert EventReplayEngine is ReplayEngine
    assert event_replay.replay_agent_state is tallyroll.replay_agent_state
    assert {mode.name for mode in ReplayMode} == {"FULL", "INCREMENTAL", "POINT_IN_TIME", "SELECTIVE", "PARALLEL"}
    assert all(mode.value == mode.name.lower() for mode in ReplayMode)
    states = ("AGENT", "TASK", "WORKFLOW", "SYSTEM", "AUDIT", "PERFORMANCE")
    assert {kind.name for kind in StateType} == {f"{name}_STATE" for name in states}
    assert list(inspect.signature(get_reconstructed_state).parameters)[:3] == ["state_type", "aggregate_id", "target_time"]
    names = list(inspect.signature(EventReplayEngine.replay_events).parameters)
    assert names[1:6] == ["state_type", "replay_mode", "event_filter", "target_time", "parallel"]


async def test_one_state_now_then_and_never() -> None:
    before = datetime.now(UTC) - timedelta(hours=1)
    agent = await replay_agent_state("agent-1")
    assert agent is not None
    assert (agent["status"], agent["tasks_started"], agent["tasks_completed"], agent["coverage"]) == ("running", 1, 1, "complete")
    task = await replay_task_state("task-1")
    assert task is not None
    assert (task["status"], task["version"]) == ("completed", 3)
    assert await replay_agent_state("agent-1", before) is None
    assert await replay_task_state("task-1", target_time=before) is None
    assert await get_reconstructed_state(StateType.TASK_STATE, "task-1") == task
    assert await get_reconstructed_state("task_state", "task-1", before) is None  # type: ignore[arg-type]  # its text does as well
    assert await get_reconstructed_state(StateType.TASK_STATE, "nobody") is None


async def test_a_moment_has_three_names() -> None:
    versions = [await get_reconstructed_state(StateType.TASK_STATE, "task-1", version=number) for number in (1, 2, 3)]
    assert [one["status"] for one in versions if one is not None] == ["created", "running", "completed"]
    for one in versions:
        assert one is not None
        assert await get_reconstructed_state(StateType.TASK_STATE, "task-1", as_of=one["as_of"]) == one
        by_time = await get_reconstructed_state(StateType.TASK_STATE, "task-1", datetime.fromisoformat(one["last_updated"]))
        assert by_time is not None
        assert {name: value for name, value in by_time.items() if name != "as_of"} == {
            name: value for name, value in one.items() if name != "as_of"
        }
    assert await get_reconstructed_state(StateType.TASK_STATE, "nobody", version=1) is None
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="1 to 3"):
            await get_reconstructed_state(StateType.TASK_STATE, "task-1", version=wrong)
    with pytest.raises(ValueError, match="no common count"):
        await get_reconstructed_state(StateType.AGENT_STATE, "agent-1", version=1)
    with pytest.raises(ValueError, match="one of"):
        await get_reconstructed_state(StateType.TASK_STATE, "task-1", datetime.now(UTC), version=1)
    with pytest.raises(ValueError, match="topic/partition"):
        await get_reconstructed_state(StateType.TASK_STATE, "task-1", as_of={"task-events": 1})


async def test_everybody_in_every_mode_and_what_is_filtered() -> None:
    answer = await replay_events(StateType.TASK_STATE)
    assert {"replay_id", "state_type", "aggregates_count", "events_processed", "reconstructed_states", "duration", "as_of"} <= answer.keys()
    assert (answer["state_type"], answer["aggregates_count"], answer["events_processed"]) == ("task_state", 2, 4)
    engine = await get_replay_engine()
    assert engine is await get_replay_engine()
    assert isinstance(engine, EventReplayEngine)
    for mode in (ReplayMode.FULL, ReplayMode.INCREMENTAL):
        again = await engine.replay_events(StateType.TASK_STATE, mode)
        assert again["reconstructed_states"] == answer["reconstructed_states"]
    chosen = ReplayFilter(event_types={"task.created"}, aggregate_ids={"task-1"})
    narrowed = await engine.replay_events(StateType.TASK_STATE, ReplayMode.SELECTIVE, chosen)
    assert (narrowed["events_processed"], list(narrowed["reconstructed_states"])) == (1, ["task-1"])
    assert narrowed == await replay_events(StateType.TASK_STATE, event_filter=chosen) | {
        name: narrowed[name] for name in ("replay_id", "duration")
    }
    past = await engine.replay_events(StateType.TASK_STATE, target_time=datetime(2020, 1, 1, tzinfo=UTC))
    assert (past["mode"], past["aggregates_count"]) == ("point_in_time", 0)
    assert await engine.get_all_reconstructed_states(StateType.TASK_STATE) == answer["reconstructed_states"]
    assert (await engine.validate_reconstructed_states(StateType.TASK_STATE))["valid"]


async def test_progress_is_told_and_forgotten() -> None:
    engine, told = await get_replay_engine(), list[str]()
    engine.add_replay_callback(lambda progress: told.append(progress.replay_id))
    answer = await engine.replay_events(StateType.AGENT_STATE)
    assert answer["replay_id"] in told
    progress = engine.get_replay_progress(answer["replay_id"])
    assert progress is not None
    assert (progress.percent, progress.finished) == (100.0, True)
    assert engine.cleanup_old_replays() == 0
    assert engine.cleanup_old_replays(max_age_hours=0) >= 1
    assert engine.get_replay_progress(answer["replay_id"]) is None


async def test_states_are_compared_projected_and_kept() -> None:
    engine = await get_replay_engine()
    one, two = await replay_task_state("task-1"), await replay_task_state("task-2")
    assert one is not None
    assert two is not None
    assert compare_states(one, one) == engine.compare_states(one, one) == []
    assert {"status", "version"} <= {str(difference.path) for difference in compare_states(one, two)}
    projector = StateProjector()
    projector.register_initializer(StateType.TASK_STATE, lambda owner: {"owner": owner, "seen": 0})
    projector.register_projection(StateType.TASK_STATE, "task.created", lambda state, _: {**state, "seen": state["seen"] + 1})
    projector.register_validator(StateType.TASK_STATE, lambda state: state["seen"] == 1)
    found = await engine.project(projector, StateType.TASK_STATE)
    assert {name: one.state for name, one in found.states.items()} == {name: {"owner": name, "seen": 1} for name in ("task-1", "task-2")}
    state = projector.initialize_state(StateType.TASK_STATE, "task-9")
    assert not projector.validate_state(StateType.TASK_STATE, state)
    made = tallyroll.AgentEvent("task.created", "task-9", "task")
    assert projector.validate_state(StateType.TASK_STATE, projector.apply_event(StateType.TASK_STATE, state, made))
    roll = await tallyroll.current_roll()
    kept = (await roll.replay(TASK)).snapshot_of("task-1", datetime.now(UTC))
    assert kept is not None
    assert StateSnapshot.from_dict(kept.to_dict()) == kept
    with pytest.raises(tallyroll.SnapshotMismatch):
        StateSnapshot.from_dict({**kept.to_dict(), "checksum": "0" * 64})
