"""The demo's middle: what the fleet's work amounts to, and a tool that hangs, found out while one looks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from tallyroll.cli.analytics.asking import in_words
from tallyroll.cli.printing import console, markup, number, paint, say, table
from tallyroll.events.event import AgentEvent
from tallyroll.roll import ANALYTICS_FOLLOWER, Roll

TOOL: Final = "read_file"  # quick in every fleet: a call that hangs stands out
_HANGS_MS: Final = 600_000
_CALLS: Final = 40  # the first ones may come before anybody knows what is usual: that is learned each few seconds
_JUDGED_S: Final = 120.0  # until a call is in what is stored: a bound, it takes a tenth of a second
_TOLD_S: Final = 1.0  # the alert is stored with what comes next; an idle service takes a tenth of a second
_LOOK_S: Final = 0.01
_SHOWN: Final = 4
_FIGURES: Final = ("tasks_completed", "success_rate", "response_time_p95", "throughput", "tool_calls", "tokens", "cost", "agents")


class Alarm(NamedTuple):
    """An alert that a call of a tool has raised: how long after it was published, what it says, and the how manieth call it was."""

    calls: int
    took_ms: float
    alert: Mapping[str, Any]
    evidence: Mapping[str, Any]


async def hour_of(roll: Roll, at: datetime) -> Mapping[str, Any]:
    """The fleet's last hour."""
    return await (await roll.analytics()).get_system_analytics("1hour", at=at)


async def hang(roll: Roll, agent: str, at: datetime) -> Alarm | None:
    """Publishes calls that take ten minutes, until one of them is an alert; None if none ever is."""
    begun: dict[str, float] = {}
    for call in range(_CALLS):
        payload = {
            "agent_id": agent, "task_id": "hanging", "tool_name": TOOL, "invocation_id": f"hanging-{call}", "duration_ms": _HANGS_MS,
            "status": "ok",
        }  # fmt: skip
        event = AgentEvent("tool.completed", "hanging", "task", payload, timestamp=at)
        position = (await roll.publish(event)).position
        begun[event.event_id] = roll.clock.monotonic()
        await roll.caught_up(position, _JUDGED_S, follower=ANALYTICS_FOLLOWER)
        until = roll.clock.monotonic() + _TOLD_S
        while True:
            if (found := await _alert_about(roll, begun)) is not None:
                alert, evidence = found
                return Alarm(call + 1, (roll.clock.monotonic() - begun[evidence["event_id"]]) * 1_000, alert, evidence)
            if roll.clock.monotonic() >= until:
                break
            await roll.clock.sleep(_LOOK_S)
    return None


async def _alert_about(roll: Roll, event_ids: Collection[str]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """That of the tool, and the call that it names; else that of the agent who called it, where only its calls are known well enough."""
    alerts, _ = await roll.open_alerts()
    about = [(one, seen) for one in alerts for seen in one["evidence"] if seen["event_id"] in event_ids]
    return min(about, key=lambda one: one[0]["key"] != TOOL, default=None)


def show_figures(found: Mapping[str, Any]) -> None:
    """The fleet's numbers in a line or two, and its slowest agents."""
    words = in_words({name: found[name] for name in _FIGURES})
    say("  ".join(f"{paint(name.replace('_', ' '), 'dim')} {paint(value, 'bold')}" for name, value in words.items()))
    say()
    rows = [in_words(row) for row in found["slowest"][:_SHOWN]]
    columns = list(rows[0]) if rows else []
    table(columns, [[markup(row[column]) for column in columns] for row in rows], right=columns[1:])


def show_alarm(alarm: Alarm) -> None:
    """The alert in its own words, with its evidence."""
    alert = alarm.alert
    say(f"{paint(str(alert['severity']).upper(), 'bold red')}  {alert['summary']}")
    say(paint(f"evidence: event {alarm.evidence['event_id']} at {alarm.evidence['position']}", "dim"))
    console().print(f"An alert, {number(round(alarm.took_ms))} ms after the call was published.")
