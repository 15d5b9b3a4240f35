"""Replaying events, under the names that users of ``utils.event_replay`` know."""

from tallyroll._api import get_reconstructed_state, get_replay_engine, replay_agent_state, replay_events, replay_task_state
from tallyroll.replay.differences import compare_states
from tallyroll.replay.engine import ReplayEngine
from tallyroll.replay.engine import ReplayEngine as EventReplayEngine
from tallyroll.replay.kinds import StateType
from tallyroll.replay.plan import ReplayFilter, ReplayMode
from tallyroll.replay.projector import StateProjector
from tallyroll.replay.snapshots import StateSnapshot

__all__ = [
    "EventReplayEngine",
    "ReplayEngine",
    "ReplayFilter",
    "ReplayMode",
    "StateProjector",
    "StateSnapshot",
    "StateType",
    "compare_states",
    "get_reconstructed_state",
    "get_replay_engine",
    "replay_agent_state",
    "replay_events",
    "replay_task_state",
]
