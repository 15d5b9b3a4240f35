"""One owner's state for people: what ``agents state``, ``tasks state`` and ``workflows state`` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from tallyroll.cli.exits import CommandError, ExitCode, after_nobody
from tallyroll.cli.freshness import catch_up
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import counted, money, number, paint, plain, say, say_json, spread
from tallyroll.cli.session import Json, Session, Url, examples, moment_of, run, session_of
from tallyroll.events.event import iso
from tallyroll.replay.fold import View

At = Annotated[
    str | None, typer.Option("--at", metavar="WHEN", help="As it was then (event time): ISO 8601 with a zone, or 10m, 2h, 1d ago.")
]
AllowTruncated = Annotated[bool, typer.Option("--allow-truncated", help="Answer also where retention removed the start.")]
Wait = Annotated[float, typer.Option("--wait", min=0, metavar="S", help="How long to let the store catch up first, in seconds.")]

_ABOUT_THE_ANSWER: Final = ("coverage", "as_of", "version", "events_applied", "last_updated")
_HELP: Final = """One {} as its events tell it, now or then.

From the state store; with --at replayed from the log alone.

The last line says how it is known: coverage (is the whole history behind it?) and up to which records.
"""
_HEADINGS: Final = ("agent_id", "task_id", "workflow_id", "status")


def add_state(app: typer.Typer, view: View, owner: str) -> None:
    """Adds the command ``state`` for the owners of a view; ``owner`` is one for the examples."""
    words = f"tallyroll {view.name}s state {owner}"
    epilog = examples(words, f"{words} --at 2h", f"{words} --at 2026-01-31T12:00:00Z --json")

    @app.command(help=_HELP.format(view.name), epilog=epilog)
    def state(  # noqa: PLR0913  # one parameter per option
        context: typer.Context,
        owner_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
        *,
        at: At = None,
        allow_truncated: AllowTruncated = False,
        wait: Wait = 10.0,
        url: Url = None,
        json: Json = False,
    ) -> None:
        session, moment = session_of(context, url, json), moment_of(at, "--at")
        found = run(_state_of(session, view, owner_id, at=moment, allow_truncated=allow_truncated, wait_s=wait))
        _show_state(session, view, found, moment)


async def _state_of(  # noqa: PLR0913  # one per option
    session: Session, view: View, owner: str, *, at: datetime | None, allow_truncated: bool, wait_s: float
) -> dict[str, Any]:
    """The state for callers, from the store or, for a moment, from the log alone. Raises CommandError when there is none."""
    async with session.roll() as roll:
        if at is None:
            await catch_up(roll, wait_s)
            state = await roll.state(view, owner, follow=False)
        else:
            state = (await roll.replay(view, owner, at, allow_truncated=allow_truncated)).shown(owner)
    if state is None:
        when = "" if at is None else f" by {iso(at)}"
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"no event names the {view.name} {plain(owner)}{when}",
            after_nobody(view.name),
        )
    return state


def _show_state(session: Session, view: View, state: Mapping[str, Any], at: datetime | None) -> None:
    """Prints a state: what it is, then how it is known."""
    if session.json:
        say_json({**state, "at": None if at is None else iso(at)})
        return
    say(f"{paint(plain(state[f'{view.name}_id']), 'bold')}  {paint(str(state['status'] or 'no status'), status_style(state['status']))}")
    say()
    spread((name, value) for name, value in readable(state).items() if name not in _HEADINGS)
    say()
    read = sum(state["as_of"].values())
    source = "stored" if at is None else f"replayed from the log as of {iso(at)}"
    said = f"{counted(state['events_applied'], 'event')}, last at {state['last_updated']}"
    known = f"as of {counted(read, 'record')} in {counted(len(state['as_of']), 'partition')}"
    say(paint(f"{source}; coverage {state['coverage']}; {said}; {known}", "dim"))


def readable(state: Mapping[str, Any]) -> dict[str, str]:
    """The members of a state as text with units; empty ones and those about the answer left out."""
    shown: dict[str, str] = {}
    for name, value in state.items():
        if name in _ABOUT_THE_ANSWER or value is None or value in ([], {}, ""):
            continue
        if name.endswith("_micro"):
            shown[name.removesuffix("_micro")] = money(value)
        elif name.endswith("_time_us"):
            shown[name.removesuffix("_us")] = short_span(value / 1_000_000)
        elif name == "duration_ms":
            shown["duration"] = short_span(value / 1_000)
        elif name == "progress_percent":
            shown["progress"] = f"{value:g} %"
        elif isinstance(value, bool) or not isinstance(value, (int, list, dict)):
            shown[name] = plain(value)
        elif isinstance(value, int):
            shown[name] = number(value)
        elif isinstance(value, list):
            shown[name] = ", ".join(plain(item) for item in value)
        else:
            shown[name] = ", ".join(f"{plain(key)} {_item(item)}" for key, item in value.items())
    return shown


def _item(item: object) -> str:
    """A member of a member: an object as its names and values in brackets."""
    return f"({', '.join(f'{plain(key)} {plain(one)}' for key, one in item.items())})" if isinstance(item, dict) else plain(item)


def status_style(status: object) -> str:
    """The colour of a status."""
    if status in ("failed", "cancelled"):
        return "red"
    return "green" if status in ("running", "completed") else "yellow" if status in ("created", "assigned") else "dim"
