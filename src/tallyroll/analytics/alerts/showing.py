"""Alerts and silences as the store has them, for people and programs that only look."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tallyroll.analytics.alerts.lifecycle import Alert, Silence
from tallyroll.analytics.windows import moment_of
from tallyroll.ports import DocumentWrite

ALERT: Final = "alert"
SILENCE: Final = "silence"
"""Kinds of documents: one alert per series, one silence per id."""


write_alert: Final = msgspec.msgpack.Encoder().encode
read_alert: Final = msgspec.msgpack.Decoder(Alert).decode
read_silence: Final = msgspec.msgpack.Decoder(Silence).decode


def silence_document(silence: Silence) -> DocumentWrite:
    """How a silence is stored."""
    return DocumentWrite(SILENCE, silence.id, write_alert(silence))


def shown_alerts(stored: Iterable[bytes]) -> list[dict[str, Any]]:
    """Each alert's members that are of use outside, the most severe and oldest first."""
    found = [read_alert(data) for data in stored]
    found.sort(key=lambda alert: (not alert.firing, -alert.signal.severity.rank, alert.signal.since))
    return [
        {
            "state": "firing" if alert.firing else "pending", "severity": alert.signal.severity.value, "detector": alert.signal.detector,
            "metric": alert.signal.metric, "dimension": alert.signal.dimension, "key": alert.signal.key,
            "since": moment_of(alert.signal.since), "at": moment_of(alert.signal.at), "value": alert.signal.value,
            "baseline": alert.signal.baseline, "unit": alert.signal.unit, "summary": alert.signal.summary,
            "told": None if alert.told is None else alert.told.value, "dedup_key": alert.signal.dedup_key,
            "evidence": [{"event_id": one.event_id, "position": str(one.position)} for one in alert.signal.evidence],
        }
        for alert in found
    ]  # fmt: skip


def shown_silences(stored: Iterable[bytes], now: int) -> list[dict[str, Any]]:
    """The silences that are not over at ``now`` (seconds since 1970), the one that ends first before the others."""
    found = sorted((one for one in map(read_silence, stored) if one.end > now), key=lambda one: one.end)
    return [{**msgspec.to_builtins(one), "start": moment_of(one.start), "end": moment_of(one.end)} for one in found]
