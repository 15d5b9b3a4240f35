"""``tallyroll workflows``: one workflow's state."""

from __future__ import annotations

from typing import Annotated

import typer

from tallyroll.cli.session import Json, Url, examples, group_of, moment_of, run, session_of, verbs
from tallyroll.cli.states import AllowTruncated, At, Wait, show_state, state_of
from tallyroll.replay.views import WORKFLOW

app = verbs()


group_of(app, "A workflow's state, now or then. To follow one: 'tallyroll tail -f --correlation CORRELATION'.")


@app.command(epilog=examples("tallyroll workflows state workflow-9", "tallyroll workflows state workflow-9 --at 2026-01-31T12:00:00Z"))
def state(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW")],
    *,
    at: At = None,
    allow_truncated: AllowTruncated = False,
    wait: Wait = 10.0,
    url: Url = None,
    json: Json = False,
) -> None:
    """A workflow as its events tell it, now or then.

    From the state store; with --at replayed from the log alone.
    """
    session, moment = session_of(context, url, json), moment_of(at, "--at")
    found = run(state_of(session, WORKFLOW, workflow, at=moment, allow_truncated=allow_truncated, wait_s=wait))
    show_state(session, WORKFLOW, found, moment)
