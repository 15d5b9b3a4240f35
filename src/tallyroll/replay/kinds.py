"""The kinds of state that are made from the history, by the names that users know."""

from __future__ import annotations

from enum import StrEnum

from tallyroll.replay.fold import View
from tallyroll.replay.views import VIEWS


class StateType(StrEnum):
    """What a replay reconstructs. Each has a built-in view; a StateProjector puts a user's reducers in its place."""

    AGENT_STATE = "agent_state"
    TASK_STATE = "task_state"
    WORKFLOW_STATE = "workflow_state"
    SYSTEM_STATE = "system_state"
    AUDIT_STATE = "audit_state"
    PERFORMANCE_STATE = "performance_state"


def view_of(state_type: StateType | str) -> View:
    """The built-in view of a kind of state. Raises ValueError that lists the kinds."""
    try:
        return _VIEWS[StateType(state_type)]
    except (ValueError, KeyError):
        raise ValueError(f"{state_type!r} is no kind of state; there are {', '.join(StateType)}") from None


_VIEWS = {StateType(f"{view.name}_state"): view for view in VIEWS}
