"""The demo's middle: what the fleet's work amounts to, and a tool that hangs, found out while one looks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from tallyroll.cli.analytics.asking import in_words
from tallyroll.cli.printing import console, markup, number, paint, say, table
from tallyroll.events.event import AgentEvent
from tallyroll.roll import Roll

TOOL: Final = "read_file"  # quick in every fleet: a call that hangs stands out
_HANGS_MS: Final = 600_000
_CALLS: Final = 40  # the first ones may come before anybody knows what is usual: that is learned each few seconds
_CALL_EVERY_S: Final = 1.0
_LOOK_S: Final = 0.01
_SHOWN: Final = 4
_FIGURES: Final = ("tasks_completed", "success_rate", "response_time_p95", "throughput", "tool_calls", "tokens", "cost", "agents")


class Alarm(NamedTuple):
    """An alert that a call of a tool has raised: how long after it was published, what it says, and the how manieth call it was."""

    calls: int
    took_ms: float
    alert: Mapping[str, Any]
    event: AgentEvent


async def hour_of(roll: Roll, at: datetime) -> Mapping[str, Any]:
    """The fleet's last hour."""
    return await (await roll.analytics()).get_system_analytics("1hour", at=at)


async def hang(roll: Roll, agent: str, at: datetime) -> Alarm | None:
    """Publishes calls that take ten minutes, one a second, until one of them is an alert; None if none ever is."""
    published: dict[str, tuple[AgentEvent, float]] = {}
    for call in range(_CALLS):
        payload = {
            "agent_id": agent, "task_id": "hanging", "tool_name": TOOL, "invocation_id": f"hanging-{call}", "duration_ms": _HANGS_MS,
            "status": "ok",
        }  # fmt: skip
        event = AgentEvent("tool.completed", "hanging", "task", payload, timestamp=at)
        await roll.publish(event)
        begun = roll.clock.monotonic()
        published[event.event_id] = event, begun
        while (now := roll.clock.monotonic()) < begun + _CALL_EVERY_S:
            if (alert := await _alert_about(roll, published)) is not None:
                newest, since = max((published[one] for one in _evidence(alert) if one in published), key=lambda one: one[1])
                return Alarm(len(published), (now - since) * 1_000, alert, newest)
            await roll.clock.sleep(_LOOK_S)
    return None


async def _alert_about(roll: Roll, event_ids: Collection[str]) -> Mapping[str, Any] | None:
    """That of the tool; else that of the agent who called it, where only its calls are known well enough."""
    alerts, _ = await roll.open_alerts()
    about = [one for one in alerts if any(seen in event_ids for seen in _evidence(one))]
    return min(about, key=lambda one: one["key"] != TOOL, default=None)


def _evidence(alert: Mapping[str, Any]) -> list[str]:
    return [seen["event_id"] for seen in alert["evidence"]]


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
    evidence = next(one for one in alert["evidence"] if one["event_id"] == alarm.event.event_id)
    say(paint(f"evidence: event {evidence['event_id']} at {evidence['position']}", "dim"))
    console().print(f"An alert, {number(round(alarm.took_ms))} ms after the call was published.")
