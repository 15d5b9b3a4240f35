"""Events that tallyroll wrote out earlier: JSON lines of ``AgentEvent.to_kafka_message()`` or of CloudEvents documents.

Both forms may be mixed, as lines or in one array. Ids, times and context are kept to the letter; ``CaptureOptions`` changes
nothing here. Sequence and chain of a CloudEvents document say where it lay in its old log, and are left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tallyroll.capture.recording import DEFAULTS, CaptureOptions, Skipped, Source, documents, outside_context, refusal
from tallyroll.errors import InvalidEvent, Undecodable
from tallyroll.events.codec import decode
from tallyroll.events.event import AgentEvent

NAME: Final = "events"


def looks_right(item: object) -> bool:
    """Whether a document is an event in one of the two forms."""
    return isinstance(item, dict) and ("specversion" in item or ("event_id" in item and "event_type" in item))


def read(source: Source, *, options: CaptureOptions = DEFAULTS) -> Iterator[AgentEvent | Skipped]:  # noqa: ARG001  # the shape of every format
    """The events in the order of the file, with their own ids; what is none as Skipped."""
    for where, item in documents(source):
        yield item if isinstance(item, Skipped) else _event(where, item)


def _event(where: str, item: object) -> AgentEvent | Skipped:
    if not isinstance(item, dict):
        return Skipped(where, "not an object")
    try:
        if "specversion" in item:
            return decode(msgspec.json.encode(item))
        return outside_context(lambda: AgentEvent.from_kafka_message(_filled(item)))
    except Undecodable as error:
        return Skipped(where, f"not a CloudEvents document of an event: {error.reason}")
    except InvalidEvent as error:
        return Skipped(where, refusal(error))
    except (TypeError, OverflowError, RecursionError):
        return Skipped(where, "a field has the wrong type")


def _filled(item: dict[str, Any]) -> dict[str, Any]:
    """The message with the correlation and time of the event itself where its metadata has none, so that no new ones are drawn."""
    metadata = item.get("metadata")
    if not isinstance(metadata, dict):
        return item
    own = {"correlation_id": item.get("event_id"), "created_at": item.get("timestamp")}
    return {**item, "metadata": metadata | {name: value for name, value in own.items() if metadata.get(name) is None}}
