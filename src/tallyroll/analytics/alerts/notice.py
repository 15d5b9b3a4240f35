"""What is told of an alert: a JSON document made of the signal and its rule, and the documents that wait to be told."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec

from tallyroll.analytics.alerts.rules import AnyRule, Urgency
from tallyroll.analytics.signal import Signal
from tallyroll.analytics.windows import moment_of
from tallyroll.events.names import OTHER_NAME
from tallyroll.events.position import Position
from tallyroll.ports import DocumentWrite, Notice

OUTBOX: Final = "outbox"
"""The kind of the documents that wait for the sinks: one notice each."""


class Shown(msgspec.Struct, frozen=True):
    """One event as evidence: its id, where it lies, and the command that replays the history up to it."""

    event_id: str
    position: str
    replay: str


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What receivers get, as JSON.

    ``id`` is the same whenever the same is told again, ``dedup_key`` for everything told of one incident. ``since`` is the
    start of the incident's first pane, ``at`` the end of the pane that this was seen in, both event time in UTC. ``value``
    and ``baseline`` are in ``unit``; ``threshold`` and ``deviation`` in the measure of ``detector``.
    """

    version: Literal[1] = 1
    id: str
    dedup_key: str
    state: Literal["firing", "resolved"]
    severity: str
    urgency: Urgency
    summary: str
    metric: str
    dimension: str
    key: str
    detector: str
    since: datetime
    at: datetime
    value: float
    baseline: float | None
    threshold: float
    deviation: float
    unit: str
    window_s: int
    evidence: tuple[Shown, ...]
    labels: dict[str, str]
    runbook: str


class Waiting(msgspec.Struct, array_like=True, frozen=True):
    """A notice in the outbox, and when it was written, µs on the wall clock."""

    notice: Notice
    written_us: int
    made_us: int


def notice_of(signal: Signal, rule: AnyRule | None) -> Notice:
    """What is told of a signal. Nothing of an event is in it but its id and place, and the key the series is kept by."""
    shown = tuple(Shown(one.event_id, str(one.position), _replay(signal, one.position)) for one in signal.evidence)
    said = (rule.urgency, dict(rule.labels), rule.runbook) if rule is not None else ("ticket", {}, "")
    body = Body(
        id=signal.event_id, dedup_key=signal.dedup_key, state=signal.state, severity=signal.severity.value, urgency=said[0],
        summary=signal.summary, metric=signal.metric, dimension=signal.dimension, key=signal.key, detector=signal.detector,
        since=moment_of(signal.since), at=moment_of(signal.at), value=signal.value, baseline=signal.baseline,
        threshold=signal.threshold, deviation=signal.deviation, unit=signal.unit, window_s=signal.window_s,
        evidence=shown, labels=said[1], runbook=said[2],
    )  # fmt: skip
    encoded = msgspec.json.encode(body)
    return Notice(signal.event_id, signal.dedup_key, signal.state, signal.severity.value, signal.since * 1_000_000, encoded)


def body_of(notice: Notice) -> Body:
    """The document of a notice, read back."""
    return _read_body(notice.body)


_read_body: Final = msgspec.json.Decoder(Body).decode
_write: Final = msgspec.msgpack.Encoder().encode
_read: Final = msgspec.msgpack.Decoder(Waiting).decode


def waiting_documents(waiting: Iterable[Waiting]) -> list[DocumentWrite]:
    """What is written to the outbox."""
    return [DocumentWrite(OUTBOX, one.notice.id, _write(one)) for one in waiting]


def read_outbox(documents: Mapping[str, bytes]) -> Sequence[Waiting]:
    """What waits, the oldest first. A document that cannot be read is of another version, and left to it."""
    found = []
    for data in documents.values():
        try:
            found.append(_read(data))
        except msgspec.MsgspecError:
            continue
    return sorted(found, key=lambda one: (one.written_us, one.notice.id))


def _replay(signal: Signal, position: Position) -> str:
    """The command that shows what was so once the record was there. Names are quoted: an id may be anything."""
    offsets = shlex.quote(msgspec.json.encode({f"{position.topic}/{position.partition}": position.offset + 1}).decode())
    if signal.dimension == "agent" and signal.key not in ("", OTHER_NAME):
        return f"tallyroll replay state agent {shlex.quote(signal.key)} --as-of {offsets}"
    return f"tallyroll replay run agent --states --as-of {offsets}"
