"""``tallyroll agents``: who is there, how each one is now or was then, and what it did."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from tallyroll.cli.event_lines import line_of, to_document
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.freshness import catch_up
from tallyroll.cli.moments import age, short_span
from tallyroll.cli.printing import counted, markup, money, note, number, paint, plain, say, say_json, table, width
from tallyroll.cli.session import Json, Session, Url, examples, group_of, moment_of, run, session_of, verbs
from tallyroll.cli.states import AllowTruncated, At, Wait, add_state, status_style
from tallyroll.events.event import AgentEvent, iso
from tallyroll.events.ids import utc_now
from tallyroll.follow.tail import Seen
from tallyroll.replay.views import AGENT

app = verbs()

_PAGE: Final = 500  # owners asked for at once
_STATUSES: Final = ("created", "running", "stopped", "failed")
_SORTS: Final[Mapping[str, str]] = {
    "seen": "last_updated",
    "done": "tasks_completed",
    "failed": "tasks_failed",
    "tokens": "tokens",
    "cost": "cost_micro",
    "name": "agent_id",
}
_PAUSE_S: Final = 60.0  # a gap in a timeline that is worth a line


group_of(app, "Agents: list, state now or then, timeline.")


@app.command(
    "ls",
    epilog=examples("tallyroll agents ls", "tallyroll agents ls --sort cost --limit 10", "tallyroll agents ls --status failed --json"),
)
def list_agents(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    status: Annotated[str | None, typer.Option(help=f"Only these: one of {', '.join(_STATUSES)}.")] = None,
    sort: Annotated[str, typer.Option(help=f"By {', '.join(_SORTS)}.")] = "seen",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    at: At = None,
    allow_truncated: AllowTruncated = False,
    wait: Wait = 10.0,
    url: Url = None,
    json: Json = False,
) -> None:
    """Every agent: status, tasks, tokens, cost, last seen.

    From the state store; with --at replayed from the log. With --json one agent per line.
    """
    if sort not in _SORTS:
        raise CommandError(ExitCode.USAGE, f"--sort: {plain(sort)} is not known", f"sort by one of {', '.join(_SORTS)}")
    if status is not None and status not in _STATUSES:
        raise CommandError(ExitCode.USAGE, f"--status: no agent is ever {plain(status)}", f"ask for one of {', '.join(_STATUSES)}")
    session, moment = session_of(context, url, json), moment_of(at, "--at")
    found = run(_states(session, moment, allow_truncated=allow_truncated, wait_s=wait))
    chosen = [one for one in found if status is None or one["status"] == status]
    chosen.sort(key=lambda one: one[_SORTS[sort]], reverse=sort != "name")
    if session.json:
        for one in chosen[:limit]:
            say_json(one)
        return
    if not chosen:
        note(
            f"no agent in {session.settings().url}{'' if moment is None else ' by then'}; 'tallyroll simulate' makes some"
            if not found
            else f"none of {counted(len(found), 'agent')} is {plain(status)}"
        )
        return
    _show_agents(chosen[:limit], moment)
    if len(chosen) > limit:
        note(f"{number(limit)} of {number(len(chosen))} agents; --limit shows more")


async def _states(session: Session, at: datetime | None, *, allow_truncated: bool, wait_s: float) -> list[dict[str, Any]]:
    async with session.roll() as roll:
        if at is not None:
            replayed = await roll.replay(AGENT, None, at, allow_truncated=allow_truncated)
            return [state for owner in replayed.states if (state := replayed.shown(owner)) is not None]
        await catch_up(roll, wait_s)
        states: list[dict[str, Any]] = []
        after = ""
        while page := await roll.owners(AGENT, after=after, limit=_PAGE, follow=False):
            after = page[-1]
            states += [state for owner in page if (state := await roll.state(AGENT, owner, follow=False)) is not None]
        return states


def _show_agents(states: list[dict[str, Any]], at: datetime | None) -> None:
    now = at or utc_now()
    rows = [
        (
            markup(one["agent_id"], "bold"),
            markup(one["status"] or "-", status_style(one["status"])),
            number(one["tasks_completed"]),
            markup(number(one["tasks_failed"]), "red" if one["tasks_failed"] else "dim"),
            number(len(one["active_tasks"])),
            number(one["tool_calls"]),
            number(one["tokens"]),
            money(one["cost_micro"]),
            age(datetime.fromisoformat(one["last_updated"]), now),
        )
        for one in states
    ]
    columns = ("agent", "status", "done", "failed", "active", "tools", "tokens", "cost", "last seen")
    table(columns, rows, right=columns[2:])


add_state(app, AGENT, "coder-001")


@app.command(epilog=examples("tallyroll agents timeline coder-001 --last 40", "tallyroll agents timeline coder-001 --since 1h --json"))
def timeline(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="AGENT")],
    *,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="From that event time on.")] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the newest N.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Everything an agent did, by event time."""
    session, begin = session_of(context, url, json), moment_of(since, "--since")
    found = run(_timeline(session, agent))
    if not found:
        raise CommandError(
            ExitCode.NOT_FOUND, f"no event names the agent {plain(agent)}", "'tallyroll agents ls' lists those that are known"
        )
    chosen = [seen for seen in found if begin is None or seen.event.timestamp >= begin]
    shown = deque(chosen, maxlen=last)
    if session.json:
        for seen in shown:
            say_json(to_document(seen))
        return
    say(
        f"{paint(plain(agent), 'bold')}  {counted(len(found), 'event')}"
        + (f", the newest {number(len(shown))}:" if len(shown) < len(found) else "")
    )
    show_timeline(shown)


async def _timeline(session: Session, agent: str) -> list[Seen[AgentEvent]]:
    async with session.roll() as roll:
        return await roll.agent_timeline(agent)


def show_timeline(seen: deque[Seen[AgentEvent]]) -> None:
    """Prints events of one agent below each other, a line for each day and each longer pause."""
    day, before = "", None
    for one in seen:
        moment = one.event.timestamp
        if iso(moment)[:10] != day:
            day = iso(moment)[:10]
            say(paint(f"── {day} UTC ──", "dim"))
        elif before is not None and (pause := (moment - before).total_seconds()) >= _PAUSE_S:
            say(paint(f"   ⋮  {short_span(pause)}", "dim"))
        say(line_of(one, columns=width(), with_agent=False))
        before = moment
