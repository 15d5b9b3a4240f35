"""``tallyroll tasks``: one task's state."""

from __future__ import annotations

from typing import Annotated

import typer

from tallyroll.cli.session import Json, Url, examples, group_of, moment_of, run, session_of, verbs
from tallyroll.cli.states import AllowTruncated, At, Wait, show_state, state_of
from tallyroll.replay.views import TASK

app = verbs()


group_of(app, "A task's state, now or then. To follow one: 'tallyroll tail -f --task TASK'.")


@app.command(epilog=examples("tallyroll tasks state task-7", "tallyroll tasks state task-7 --at 2026-01-31T12:00:00Z"))
def state(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK")],
    *,
    at: At = None,
    allow_truncated: AllowTruncated = False,
    wait: Wait = 10.0,
    url: Url = None,
    json: Json = False,
) -> None:
    """A task as its events tell it, now or then.

    From the state store; with --at replayed from the log alone.
    """
    session, moment = session_of(context, url, json), moment_of(at, "--at")
    found = run(state_of(session, TASK, task, at=moment, allow_truncated=allow_truncated, wait_s=wait))
    show_state(session, TASK, found, moment)
