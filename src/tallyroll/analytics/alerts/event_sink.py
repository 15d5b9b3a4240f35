"""Alerts as events of their own: ``anomaly.detected`` on ``system-events``, which analytics does not read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from tallyroll.analytics.alerts.notice import body_of
from tallyroll.errors import SinkRefused, SinkUnavailable, TallyrollError
from tallyroll.events.event import AgentEvent
from tallyroll.events.types import EventType
from tallyroll.ports import Notice

Publish = Callable[[AgentEvent], Awaitable[object]]
"""Publishes an event; durable when it has been awaited, else it raises."""

AGGREGATE_TYPE: Final = "metric"
"""The aggregate of an alert's event is the metric, whatever key it is about: its alerts keep their order."""


class EventSink:
    """Implements ``ports.AlertSink`` by publishing. The event's id is the notice's, so readers drop one that comes again.

    Not promised: that anybody reads the event; that its time is now: it is the start of the incident.
    """

    name: Final = "event"

    def __init__(self, publish: Publish) -> None:
        self._publish = publish

    async def send(self, notice: Notice) -> None:
        try:
            await self._publish(event_of(notice))
        except TallyrollError as error:
            kind = SinkUnavailable if error.retriable else SinkRefused
            raise kind(self.name, type(error).__name__) from None

    async def close(self) -> None:
        """What was handed in stays open."""


def event_of(notice: Notice) -> AgentEvent:
    """The event that tells of a notice; ``state`` says whether it begins or ends."""
    body = body_of(notice)
    payload = {
        "metric_name": body.metric, "anomaly_type": body.detector, "severity": body.severity, "state": body.state,
        "value": body.value, "expected": body.baseline, "deviation": body.deviation, "threshold": body.threshold,
        "window": f"{body.window_s}s", "message": body.summary, "dimension": body.dimension, "key": body.key,
        "urgency": body.urgency, "dedup_key": body.dedup_key, "unit": body.unit,
        "evidence": [{"event_id": one.event_id, "position": one.position} for one in body.evidence],
    }  # fmt: skip
    return AgentEvent(EventType.ANOMALY_DETECTED, body.metric, AGGREGATE_TYPE, payload, event_id=notice.id, timestamp=body.since)
