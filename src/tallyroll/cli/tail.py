"""``tallyroll tail``: what is in the log, and what comes."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer

from tallyroll.cli.event_lines import line_of, to_document
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.filters import Wanted, event_filter
from tallyroll.cli.printing import note, paint, say, say_json, width
from tallyroll.cli.session import Json, Session, Url, examples, moment_of, run, session_of, verbs
from tallyroll.errors import Undecodable
from tallyroll.events.event import AgentEvent, iso
from tallyroll.follow.tail import SeenRecord

app = verbs()

DEFAULT_LAST: Final = 20  # fits above a prompt


@app.command(
    epilog=examples(
        "tallyroll tail -f",
        "tallyroll tail -f --type 'tool.*' --type '*.failed' --agent coder-001",
        "tallyroll tail --since 10m --field tool_name=web_search",
        "tallyroll tail --all --json > dump.jsonl      # 'tallyroll import dump.jsonl' reads it back",
    )
)
def tail(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    types: Annotated[list[str] | None, typer.Option("--type", metavar="GLOB", help="Only types such as 'task.*'; may be repeated.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only this agent's deeds.")] = None,
    task: Annotated[str | None, typer.Option(help="Only what concerns this task.")] = None,
    correlation: Annotated[str | None, typer.Option(help="Only events with this correlation.")] = None,
    field: Annotated[
        list[str] | None, typer.Option(metavar="PATH=VALUE", help="Only where that payload or event field has the value; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="From that moment on: ISO 8601 with a zone, or 10m, 2h, 1d ago.")
    ] = None,
    last: Annotated[int | None, typer.Option(min=0, metavar="N", help="The newest N that match [20 unless --since or --all].")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is in the log; per partition in order.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show events, oldest first: the newest ones, since a moment, or as they come.

    With --json each line is one event with its position, in the form that 'tallyroll import' reads.
    """
    session = session_of(context, url, json)
    try:
        wanted = event_filter(types=types or (), agent=agent, task=task, correlation=correlation, fields=field or ())
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"--field: {error}", "see the examples in --help") from None
    if last is None and since is None and not everything:
        last = DEFAULT_LAST
    run(_tail(session, Choice(wanted, since, last, follow=follow)))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which events are shown."""

    wanted: Wanted | None
    since: str | None
    last: int | None
    follow: bool


async def _tail(session: Session, choice: Choice) -> None:
    screen = _Screen(json=session.json, live=choice.follow)
    kept: deque[SeenRecord] | None = None if choice.last is None else deque(maxlen=choice.last)

    def flush() -> None:
        """What was there has been read: show what was kept of it; what comes is shown at once."""
        nonlocal kept
        for seen in kept or ():
            screen.show(seen)
        kept = None
        sys.stdout.flush()

    async with session.roll() as roll:
        # Without a filter the newest N lie among the newest N of each partition; with one they may lie anywhere.
        bound = choice.last if choice.wanted is None and choice.since is None else None
        async for seen in roll.tail(since=moment_of(choice.since, "--since"), last=bound, follow=choice.follow, at_end=flush):
            if choice.wanted is not None and not (isinstance(seen.event, AgentEvent) and choice.wanted(seen.event)):
                continue
            if kept is None:
                screen.show(seen)
            else:
                kept.append(seen)
    if not screen.shown and not session.json:
        note(
            f"nothing is in {session.settings().url}; 'tallyroll simulate' or 'tallyroll publish' puts events in"
            if choice.wanted is None and choice.since is None and choice.last != 0
            else "no event matches"
        )


@dataclass(slots=True)
class _Screen:
    """Prints events; a heading where the day changes, whole times where the output is not looked at."""

    json: bool
    live: bool
    shown: int = 0
    _day: str = ""
    _columns: int | None = field(default_factory=width)

    def show(self, seen: SeenRecord) -> None:
        self.shown += 1
        if self.json:
            say_json(to_document(seen))
        elif self._columns is None or isinstance(seen.event, Undecodable):
            say(line_of(seen, when=None if isinstance(seen.event, Undecodable) else iso(seen.event.timestamp)))
        else:
            day = iso(seen.event.timestamp)[:10]
            if day != self._day:
                self._day = day
                say(paint(f"── {day} UTC ──", "dim"))
            say(line_of(seen, columns=self._columns))
        if self.live:
            sys.stdout.flush()
