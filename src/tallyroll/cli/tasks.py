"""``tallyroll tasks``: one task's state."""

from __future__ import annotations

from tallyroll.cli.session import group_of, verbs
from tallyroll.cli.states import add_state
from tallyroll.replay.views import TASK

app = verbs()

group_of(app, "A task's state, now or then. To follow one: 'tallyroll tail -f --task TASK'.")
add_state(app, TASK, "task-7")
