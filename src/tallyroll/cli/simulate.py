"""``tallyroll simulate``: the events of a made-up fleet into the log."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import islice
from typing import Annotated, Final

import typer

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import note, number, say, say_json
from tallyroll.cli.progress import Progress
from tallyroll.cli.session import Json, Session, Url, examples, moment_of, run, session_of, span_of, verbs
from tallyroll.events.event import AgentEvent, iso
from tallyroll.events.ids import utc_now
from tallyroll.ports import Delivered
from tallyroll.roll import Roll
from tallyroll.simulate.fleet import Fleet

app = verbs()

_BATCH: Final = 1_000  # as many as the publisher encodes between two looks at its loop
_TICKS_PER_S: Final = 10  # with --rate, how finely the events are spread over a second
_WORKDAY_BEGINS: Final = time(8, tzinfo=UTC)  # the hour in which work comes in at once; nights are quiet
_DEFAULT_EVENTS: Final = 10_000


@app.command(
    epilog=examples(
        "tallyroll simulate --agents 20 --events 10000",
        "tallyroll simulate --duration 2h --rate 200      # slowly enough to watch with 'tallyroll tail -f'",
        "tallyroll simulate --seed 7 --start 2026-01-05T08:00:00Z      # the same events each time",
    )
)
def simulate(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    *,
    agents: Annotated[int, typer.Option(min=1, help="How many agents.")] = 20,
    events: Annotated[int | None, typer.Option(min=1, help="How many events [10000 unless --duration].")] = None,
    duration: Annotated[str | None, typer.Option(metavar="SPAN", help="How much of the fleet's time, such as 30m or 8h.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, metavar="N", help="Events per second; without it as fast as possible.")] = None,
    seed: Annotated[int | None, typer.Option(help="Determines the story [a new one each time].")] = None,
    start: Annotated[str | None, typer.Option(metavar="WHEN", help="Time of the first event [the last 08:00 UTC].")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Publish what a made-up fleet does: agents, tasks, tools, workflows, failures, bursts.

    The same seed, start and number of agents give the same events with the same ids.
    """
    session = session_of(context, url, json)
    chosen = Story(
        seed=secrets.randbelow(100_000) if seed is None else seed,
        agents=agents,
        start=moment_of(start, "--start") or _last_morning(utc_now()),
        events=_DEFAULT_EVENTS if events is None and duration is None else events,
        duration=span_of(duration, "--duration"),
    )
    report = run(_simulate(session, chosen, rate))
    again = f"--seed {chosen.seed} --agents {agents} --start {iso(chosen.start)}"
    if session.json:
        story = {"seed": chosen.seed, "agents": agents, "start": iso(chosen.start)}
        say_json({"published": report.published, "failed": report.failed, "seconds": round(report.seconds, 3), **story})
    else:
        speed = report.published / report.seconds if report.seconds else 0.0
        say(f"{number(report.published)} events in {report.seconds:.1f} s ({number(round(speed))} a second)")
        note(f"the same again: {again}")
        looks = ("tail", "agents ls", "analytics show fleet --at newest")
        note("look at them: " + "; ".join(map(session.command, looks)))
    if report.failed:
        raise CommandError(
            ExitCode.UNCERTAIN,
            f"{number(report.failed)} events were not confirmed: {report.reason}",
            "check the log with 'tallyroll doctor'",
        )


@dataclass(frozen=True, slots=True)
class Story:
    """Which part of which fleet's life is published."""

    seed: int
    agents: int
    start: datetime
    events: int | None
    duration: timedelta | None

    def tell(self) -> Iterator[AgentEvent]:
        """The events, lazily."""
        return Fleet(seed=self.seed, agents=self.agents, start=self.start).run(events=self.events, duration=self.duration)


@dataclass(slots=True)
class Sent:
    """What became of the events."""

    published: int = 0
    failed: int = 0
    reason: str = ""
    seconds: float = 0.0


async def _simulate(session: Session, story: Story, rate: float | None) -> Sent:
    async with session.roll() as roll:
        with Progress("simulating", story.events) as progress:
            return await send(roll, story.tell(), rate=rate, progress=progress)


async def send(roll: Roll, events: Iterator[AgentEvent], *, rate: float | None, progress: Progress) -> Sent:
    """Publishes all events in batches, at most ``rate`` a second; stops counting on nothing: failures are reported."""
    report = Sent()
    begun = roll.clock.monotonic()
    size = _BATCH if rate is None else max(1, min(_BATCH, round(rate / _TICKS_PER_S)))
    while batch := list(islice(events, size)):
        for outcome in await roll.publish_batch(batch):
            if isinstance(outcome, Delivered):
                report.published += 1
            else:
                report.failed += 1
                report.reason = str(outcome.error)
        progress.advance_to(report.published + report.failed)
        if rate is not None:
            ahead = (report.published + report.failed) / rate - (roll.clock.monotonic() - begun)
            if ahead > 0:
                await roll.clock.sleep(ahead)
    report.seconds = roll.clock.monotonic() - begun
    return report


def _last_morning(now: datetime) -> datetime:
    today = datetime.combine(now.date(), _WORKDAY_BEGINS)
    return today if today <= now else today - timedelta(days=1)
