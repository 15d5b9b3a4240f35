"""What travels with every event published inside a block: correlation, causation, session, user, tenant, trace.

::

    with event_context(session_id="s-1", user_id="u-7"):
        await publish_task_event(...)        # carries both, and everything below it in the call tree does

Held in a context variable: tasks started inside inherit it, and nothing leaks into neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tallyroll.errors import InvalidEvent

if TYPE_CHECKING:
    from tallyroll.events.event import AgentEvent

# W3C Trace Context, section 3.2: version, trace id, parent id, flags; all-zero ids are invalid, so is version ff, and so is
# anything after the flags in version 00.
_TRACEPARENT: Final = re.compile(r"(?!ff|00-.{53})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@dataclass(frozen=True, slots=True)
class EventContext:
    """The values in force. None means: not set here, the event's own default applies."""

    correlation_id: str | None = None
    causation_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    tenant_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


NO_CONTEXT: Final = EventContext()
_current: ContextVar[EventContext] = ContextVar("tallyroll_event_context", default=NO_CONTEXT)


def current_context() -> EventContext:
    """The context in force in this task or thread."""
    return _current.get()


def check_traceparent(value: str) -> str:
    """The value if it is a W3C ``traceparent``; else InvalidEvent."""
    if not isinstance(value, str) or not _TRACEPARENT.fullmatch(value):
        raise InvalidEvent("traceparent", "expected version-traceid-parentid-flags in lower-case hex (W3C Trace Context)")
    return value


@contextmanager
def event_context(  # noqa: PLR0913  # one keyword per thing that is carried
    *,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    session_id: str | None = None,
    user_id: str | None = None,
    tenant_id: str | None = None,
    traceparent: str | None = None,
    tracestate: str | None = None,
) -> Iterator[EventContext]:
    """Puts values into every event built inside the block; what is not given stays as it was outside.

    An event's explicit metadata wins over the context. Raises InvalidEvent for a malformed ``traceparent``.
    """
    if traceparent is not None:
        check_traceparent(traceparent)
    given = {
        name: value
        for name, value in (
            ("correlation_id", correlation_id),
            ("causation_id", causation_id),
            ("session_id", session_id),
            ("user_id", user_id),
            ("tenant_id", tenant_id),
            ("traceparent", traceparent),
            ("tracestate", tracestate),
        )
        if value is not None
    }
    token = _current.set(replace(_current.get(), **given))
    try:
        yield _current.get()
    finally:
        _current.reset(token)


@contextmanager
def no_context() -> Iterator[None]:
    """Inside, nothing is filled in from outside: for events that are read back, not made."""
    token = _current.set(NO_CONTEXT)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def caused_by(event: AgentEvent) -> Iterator[EventContext]:
    """Events built inside are effects of ``event``: its correlation goes on, its id becomes their causation, who and where stay."""
    metadata = event.metadata
    with event_context(
        correlation_id=metadata.correlation_id,
        causation_id=event.event_id,
        session_id=metadata.session_id,
        user_id=metadata.user_id,
        tenant_id=metadata.tenant_id,
        traceparent=metadata.traceparent,
        tracestate=metadata.tracestate,
    ) as context:
        yield context
