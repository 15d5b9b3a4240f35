"""``tallyroll demo``: the whole idea in under a minute, on an embedded log in a temporary folder."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tallyroll.cli.agents import show_timeline
from tallyroll.cli.demo.alarm import hang, hour_of, show_alarm, show_figures
from tallyroll.cli.demo.forgery import Forgery, forge_copy
from tallyroll.cli.demo.screen import Screen, show_change
from tallyroll.cli.demo.trail import forget, prove, show_forgotten, show_proof
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.freshness import behind, follow_until
from tallyroll.cli.printing import number, paint, say, say_json
from tallyroll.cli.progress import Progress
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of, verbs
from tallyroll.cli.simulate import Sent, send
from tallyroll.cli.verify import show_chain
from tallyroll.errors import Undecodable
from tallyroll.events.event import AgentEvent
from tallyroll.events.ids import utc_now
from tallyroll.replay.views import AGENT
from tallyroll.roll import ANALYTICS_FOLLOWER, AUDIT_FOLLOWER, STATE_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.simulate.fleet import Fleet

app = verbs()

_AGENTS: Final = 12  # as many as fit on a screen
_RATE: Final = 500.0  # events per second: lively, and far from what the log takes
_PAST: Final = 6_000  # events, at least, before the demo begins: what is usual has to be known
_SPAN: Final = timedelta(minutes=25)  # in which a busy fleet has as many
_SEED: Final = 11
_LOOK_S: Final = 0.25  # between two looks at the store while the fleet is at work
_WAIT_S: Final = 30.0  # for the store to catch up after the last event; it takes well under a second
_TIMELINE: Final = 9

_NEXT: Final = (
    ("tallyroll simulate --rate 50", "a fleet of your own; watch: tallyroll tail -f"),
    ("tallyroll publish task.completed task-7 --agent me", "your first event"),
    ("tallyroll import runs.json", "recorded chats, coding sessions, OTLP traces"),
    ("tallyroll agents state coder-001 --at 10m", "any agent at any moment"),
    ("tallyroll run all", "metrics, alerts, archive and the audit trail, kept current"),
    ("tallyroll doctor --url kafka://broker:9092", "the same on Apache Kafka"),
)


@dataclass(slots=True)
class Findings:
    """What the demo claims, and whether it held."""

    sent: Sent = field(default_factory=Sent)
    agents: int = 0
    alarm_ms: float | None = None
    live_equals_replay: bool = False
    chain_intact: bool = False
    forgery_found: bool = False
    trail_valid: bool = False
    trail_forgery_found: bool = False
    person_forgotten: bool = False

    def failed(self) -> list[str]:
        """What was shown and is not true."""
        shown = {
            "published": self.sent.published > 0 and not self.sent.failed, "alarm": self.alarm_ms is not None,
            "live_equals_replay": self.live_equals_replay, "chain_intact": self.chain_intact, "forgery_found": self.forgery_found,
            "trail_valid": self.trail_valid, "trail_forgery_found": self.trail_forgery_found, "person_forgotten": self.person_forgotten,
        }  # fmt: skip
        return [name for name, held in shown.items() if not held]


@app.command(epilog=examples("tallyroll demo", "tallyroll demo --seconds 5", "tallyroll demo --keep ./demo-log"))
def demo(  # one parameter per option
    context: typer.Context,
    *,
    seconds: Annotated[float, typer.Option(min=0.5, max=300, help="How long the fleet works.")] = 12.0,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Put the log there and leave it; else it is removed at the end.")
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """A made-up fleet at work, live; a tool that hangs and its alert; an agent's story, then and now; forgeries; a person forgotten.

    Needs no server and touches no other log: --url is not looked at. Exit code 1 when anything shown does not hold.
    """
    session = session_of(context, url, json)
    logging.getLogger("tallyroll.alerts.told").setLevel(logging.CRITICAL)  # the alert is shown in its place
    with tempfile.TemporaryDirectory(prefix="tallyroll-demo-") as temporary:
        folder = Path(temporary) if keep is None else keep
        found = run(_demo(session, folder.resolve(), seconds))
    failed = found.failed()
    if session.json:
        say_json(
            {
                "events": found.sent.published,
                "seconds": round(found.sent.seconds, 3),
                "agents": found.agents,
                "alarm_ms": None if found.alarm_ms is None else round(found.alarm_ms),
                "live_equals_replay": found.live_equals_replay,
                "chain_intact": found.chain_intact,
                "forgery_found": found.forgery_found,
                "trail_valid": found.trail_valid,
                "trail_forgery_found": found.trail_forgery_found,
                "person_forgotten": found.person_forgotten,
                "ok": not failed,
            }
        )
    if failed:
        raise CommandError(
            ExitCode.FINDINGS, f"what does not hold: {', '.join(failed)}", "run it again with TALLYROLL_DEBUG=1 and report the output"
        )
    if not session.json:
        _show_next(keep)


async def _demo(session: Session, folder: Path, seconds: float) -> Findings:
    found = Findings()
    talk = _Talk(silent=session.json)
    async with Roll.open(Settings(url=f"sqlite:///{folder / 'log'}")) as roll:
        talk.title(
            "1", f"{_AGENTS} agents at work", "every step is one event in the log; the table is a fold over it, kept current as you look"
        )
        found.sent = await _watch(roll, seconds, silent=session.json)
        states = await _states(roll)
        found.agents = len(states)
        hero = max(states, key=lambda state: (state["tasks_failed"], state["tool_calls"]))
        await _alarm(roll, hero["agent_id"], found, talk)
        await _story(roll, hero, found, talk)
        talk.title(
            "5", "Is that log what the publisher wrote?", "each event carries the hash of the one before it; anyone who reads can check"
        )
        report = await roll.verify_chain()
        found.chain_intact = report.intact and report.linked == report.records
        if not session.json:
            show_chain(report)
        async with Roll.open(Settings(url=f"sqlite:///{folder / 'forged'}")) as forged:
            forgery = await forge_copy(roll, forged)
            report = await forged.verify_chain()
        found.forgery_found = not report.intact
        talk.forged(forgery, found=found.forgery_found)
        if not session.json:
            show_chain(report)
        await _trail(roll, folder, hero["agent_id"], found, talk)
    return found


async def _trail(roll: Roll, folder: Path, agent: str, found: Findings, talk: _Talk) -> None:
    """The audit trail: proof, forgery, and a person who is forgotten."""
    why = "the trail is chained, signed and sealed; who verifies it needs a public key and no server"
    talk.title("6", "Can an auditor check it who trusts nobody here?", why)
    proven = await prove(roll, folder)
    found.trail_valid, found.trail_forgery_found = proven.valid, proven.forged is not None
    if not talk.silent:
        show_proof(proven)
    talk.title("7", "Can it forget?", "an agent read a customer's record; the customer asks to be forgotten")
    forgotten = await forget(roll, agent)
    was, now = forgotten.before.payload, forgotten.after.payload
    found.person_forgotten = was != now == {"erased": True} and forgotten.valid
    if not talk.silent:
        show_forgotten(forgotten)


async def _watch(roll: Roll, seconds: float, *, silent: bool) -> Sent:
    """Lets the fleet work, and shows its stored state as it changes."""
    live = int(seconds * _RATE)
    events = fleet_until(utc_now(), _PAST + live)
    await roll.follow()
    await roll.follow(ANALYTICS_FOLLOWER)
    await roll.follow(AUDIT_FOLLOWER)
    with Screen(silent=silent) as screen, Progress("", None, silent=True) as progress:
        past = await send(roll, iter(events[:-live]), rate=None, progress=progress)
        work = asyncio.ensure_future(send(roll, iter(events[-live:]), rate=_RATE, progress=progress))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=_LOOK_S)
                screen.show(await _states(roll), published=progress.done, behind=(await behind(roll)).records)
        finally:
            work.cancel()
        sent = work.result()
        sent.published, sent.failed = sent.published + past.published, sent.failed + past.failed
        for follower in (STATE_FOLLOWER, ANALYTICS_FOLLOWER):  # what is usual is known for what was read before
            await follow_until(roll, await behind(roll, follower), _WAIT_S, follower)
        screen.show(await _states(roll), published=sent.published, behind=(await behind(roll)).records, last=True)
    return sent


def fleet_until(now: datetime, count: int) -> Sequence[AgentEvent]:
    """At least so many events of a fleet that is at work until now. By night it works less, so it began earlier."""
    span = _SPAN
    while True:
        fleet = Fleet(seed=_SEED, agents=_AGENTS, start=now - span, tasks_per_agent_hour=75.0)
        if len(events := list(fleet.run(duration=span))) >= count:
            return events
        span *= 1.5


async def _alarm(roll: Roll, agent: str, found: Findings, talk: _Talk) -> None:
    """What the hour amounts to, and a tool that hangs."""
    talk.title("2", "What it amounts to, and what is wrong", "windows over the same log; then one call of a quick tool takes ten minutes")
    now = utc_now()
    figures = await hour_of(roll, now)
    if not talk.silent:
        show_figures(figures)
    talk.line()
    alarm = await hang(roll, agent, now)
    if alarm is not None:
        found.alarm_ms = alarm.took_ms
        found.sent.published += alarm.calls
        if not talk.silent:
            show_alarm(alarm)


async def _states(roll: Roll) -> list[dict[str, Any]]:
    owners = await roll.owners(AGENT, limit=1_000, follow=False)
    return [state for owner in owners if (state := await roll.state(AGENT, owner, follow=False)) is not None]


async def _story(roll: Roll, hero: Mapping[str, Any], found: Findings, talk: _Talk) -> None:
    """One agent: what it did, and its state now and halfway, both made from the log alone."""
    name = hero["agent_id"]
    seen = await roll.agent_timeline(name)
    moments = [one.event.timestamp for one in seen if not isinstance(one.event, Undecodable)]
    halfway = moments[len(moments) // 2]
    then, now = await roll.replayed_state(AGENT, name, halfway), await roll.replayed_state(AGENT, name)
    stored = await roll.state(AGENT, name, follow=False)
    found.live_equals_replay = now is not None and stored is not None and _read(now) == _read(stored)
    topics = len({one.position.topic for one in seen})
    talk.title("3", f"The story of {name}", f"the newest {_TIMELINE} of {number(len(seen))} events that name it, from {topics} topics")
    talk.timeline(deque(seen, maxlen=_TIMELINE))
    talk.title("4", f"{name}, then and now", "replayed from the log alone, at a moment in its past and at the end")
    talk.change(then, now, halfway)
    same = paint("equal", "green") if found.live_equals_replay else paint("DIFFERENT", "bold red")
    talk.line(f"The state kept live and the state replayed from the log are {same}: one fold makes both.")


def _read(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state, and how far it read; a partition in which there is nothing is read to 0 or not named."""
    return {**state, "as_of": {partition: offset for partition, offset in state["as_of"].items() if offset}}


@dataclass(frozen=True, slots=True)
class _Talk:
    """What the demo says between the pictures."""

    silent: bool

    def line(self, text: str = "") -> None:
        if not self.silent:
            say(text)
            sys.stdout.flush()

    def title(self, step: str, text: str, what: str) -> None:
        self.line()
        self.line(f"{paint(step, 'bold cyan')} {paint(text, 'bold')}")
        self.line(paint(f"  {what}", "dim"))
        self.line()

    def timeline(self, seen: deque[Any]) -> None:
        if not self.silent:
            show_timeline(seen)

    def change(self, then: Mapping[str, Any] | None, now: Mapping[str, Any] | None, halfway: datetime) -> None:
        if not self.silent and then is not None and now is not None:
            show_change(then, now, halfway)

    def forged(self, forgery: Forgery, *, found: bool) -> None:
        self.line()
        self.line("Would it notice a change? A copy of the log, record by record, with one digit altered:")
        self.line(f"  {forgery.position}  {forgery.before} {paint('→', 'dim')} {paint(forgery.after, 'red')}")
        verdict = paint("found out", "green") if found else paint("NOT found out", "bold red")
        self.line(f"The copy is {verdict}, by the next record, which names the hash of the true one:")


def _show_next(keep: Path | None) -> None:
    say()
    say(paint("Everything held. What to try next:", "bold"))
    say()
    wide = max(len(command) for command, _ in _NEXT)
    for command, what in _NEXT:
        say(f"  {paint(command.ljust(wide), 'cyan')}  {paint(what, 'dim')}")
    if keep is not None:
        say()
        say(f"The demo's log stays in {keep}: tallyroll agents ls --url sqlite:///{(keep / 'log').resolve()}")
