"""``tallyroll workflows``: one workflow's state."""

from __future__ import annotations

from tallyroll.cli.session import group_of, verbs
from tallyroll.cli.states import add_state
from tallyroll.replay.views import WORKFLOW

app = verbs()

group_of(app, "A workflow's state, now or then. To follow one: 'tallyroll tail -f --correlation CORRELATION'.")
add_state(app, WORKFLOW, "workflow-9")
