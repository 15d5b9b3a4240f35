"""``tallyroll run``: keep the state store current, as a service."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.freshness import Behind, behind
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import note, number, plain, say, say_json
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of, span_of, verbs
from tallyroll.events.event import iso
from tallyroll.events.ids import utc_now
from tallyroll.roll import ARCHIVE_FOLLOWER, STATE_FOLLOWER, Roll
from tallyroll.telemetry import DEAD_LETTERS, FOLLOW_RETRIES, FOLLOWED, Counters

app = verbs()


@app.command(
    "run",
    epilog=examples(
        "tallyroll run",
        "tallyroll run archive           # keep what topics forget",
        "tallyroll run --once      # until all that is there has been applied, then exit",
        "tallyroll run --interval 1m --json >> state.log",
    ),
)
def run_(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    followers: Annotated[
        list[str] | None, typer.Argument(metavar="[FOLLOWER]…", help="state, archive, or both; state if none is named.")
    ] = None,
    *,
    interval: Annotated[str, typer.Option(metavar="SPAN", help="How often a line is printed.")] = "10s",
    once: Annotated[bool, typer.Option("--once", help="End when the store has caught up with the log.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Follow the log and keep all states current, of agents, tasks, workflows and the rest, until stopped.

    SIGTERM ends it with exit code 0, Ctrl-C with 130; both store first what has been applied. Several instances share the
    partitions; all of them need the same store.
    """
    session = session_of(context, url, json)
    every = span_of(interval, "--interval")
    if every is None or every.total_seconds() <= 0:
        raise CommandError(ExitCode.USAGE, "--interval: expected more than 0", "write 10s or 1m")
    names = list(dict.fromkeys(followers or [STATE_FOLLOWER]))
    if unknown := set(names) - {STATE_FOLLOWER, ARCHIVE_FOLLOWER}:
        raise CommandError(
            ExitCode.USAGE, f"there is no follower {plain(min(unknown))}", f"name {STATE_FOLLOWER}, {ARCHIVE_FOLLOWER}, or both"
        )
    run(_follow(session, names, every.total_seconds(), once=once))


async def _follow(session: Session, names: list[str], every_s: float, *, once: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings, counters = session.settings(), Counters()
    async with Roll.open(settings, telemetry=counters) as roll:
        for name in names:
            await roll.follow(name)
        note(f"following {settings.url} as {', '.join(map(settings.group, names))}; store in {settings.data_dir}")
        finished, told = asyncio.ensure_future(roll.run(*names)), asyncio.ensure_future(stop.wait())
        report = _Lines(session, counters)
        try:
            while not (finished.done() or told.done()):
                left = await behind(roll, *names)
                if once and not left.records:
                    break
                await asyncio.wait({finished, told}, timeout=0.1 if once else every_s, return_when=asyncio.FIRST_COMPLETED)
                if not once:
                    report.line(await behind(roll, *names), every_s)
            if finished.done():
                finished.result()  # raises what ended the loop
        finally:
            finished.cancel()
            told.cancel()
        if once:
            report.line(await behind(roll, *names), None)
    note("stopped; all that was applied is stored")


@dataclass(slots=True)
class _Lines:
    """A line per interval: what has been applied since the one before, and what is left."""

    session: Session
    counters: Counters
    _before: float = 0.0

    def line(self, left: Behind, interval_s: float | None) -> None:
        applied = self.counters.value(FOLLOWED)
        fresh, self._before = applied - self._before, applied
        letters, retries = int(self.counters.value(DEAD_LETTERS)), int(self.counters.value(FOLLOW_RETRIES))
        if self.session.json:
            say_json({"time": iso(utc_now()), "applied": int(fresh), "behind": left.records, "dead_letters": letters, "retries": retries})
        else:
            speed = "" if interval_s is None else f" in {short_span(interval_s)}"
            trouble = "".join(f", {number(count)} {what}" for count, what in ((letters, "dead letters"), (retries, "retries")) if count)
            say(f"{iso(utc_now())[:19]}Z  {number(int(fresh))} applied{speed}, {number(left.records)} behind{trouble}")
        sys.stdout.flush()
