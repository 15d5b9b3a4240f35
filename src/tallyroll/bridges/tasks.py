"""What is read of a request and of the task that a manager made of it, and the event that tells of the task. Pure.

Requests and tasks are the user's: objects with attributes, or mappings.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import sha256
from typing import Any, Final

import msgspec

from tallyroll.errors import InvalidEvent
from tallyroll.events.event import AgentEvent
from tallyroll.events.ids import id_at
from tallyroll.events.moments import EPOCH, moment_at, us_of
from tallyroll.events.payload import clean_payload
from tallyroll.events.types import EventType

DEFAULT_CREATOR: Final = "system"


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is kept of a request, which may hold secrets: what the event will say."""

    agent_type: str | None = None
    task_description: str | None = None
    created_by: str = DEFAULT_CREATOR

    def __repr__(self) -> str:
        """Without its content."""
        return "Asked(…)"

    def alike(self, other: Asked) -> bool:
        """Whether a task of the one can be taken for a task of the other."""
        return (self.agent_type, self.task_description) == (other.agent_type, other.task_description)

    def payload(self) -> dict[str, Any]:
        """The payload of the event."""
        given = {"agent_type": self.agent_type, "task_description": self.task_description, "created_by": self.created_by}
        return {name: value for name, value in given.items() if value is not None}


def asked_of(request: object) -> Asked:
    """What a request asks for. ``created_by`` is ``env_vars["USER"]``, else ``system``; no other variable is read.

    Raises InvalidEvent for what no event could say, such as a description beyond its size, or an id of control characters, which
    the manager would give to the task.
    """
    variables = _member(request, "env_vars")
    user = variables.get("USER") if isinstance(variables, Mapping) else None
    asked = Asked(
        _text(_member(request, "agent_type")),
        _text(_member(request, "task_description")),
        user if isinstance(user, str) and user else DEFAULT_CREATOR,
    )
    clean_payload(asked.payload())
    if task_id := _own_id(request):
        created_event(task_id, 0, asked)
    return asked


def task_id_of(task: object) -> str:
    """The id of a task: its ``id``, else its ``task_id``. Raises InvalidEvent for a task without one."""
    if found := _own_id(task):
        return found
    raise InvalidEvent("task.id", "expected the manager's task to have an id, or a task_id")


def created_us_of(task: object) -> int | None:
    """When a task was made, µs since 1970; None if it does not say.

    ``created_at`` is a datetime, ISO 8601 text, or seconds since 1970. Without a zone it is taken for UTC: what matters is
    that every process takes the same task for the same moment.
    """
    value = _member(task, "created_at")
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, int | float):
            value = EPOCH + timedelta(seconds=value)
        if isinstance(value, datetime):
            return us_of(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        pass
    return None


def created_event(task_id: str, created_us: int, asked: Asked) -> AgentEvent:
    """TASK_CREATED of a task. Its id follows from the task, so whoever publishes it, and however often, it is one event."""
    return AgentEvent(
        EventType.TASK_CREATED,
        task_id,
        "task",
        asked.payload(),
        event_id=id_at(created_us, sha256(task_id.encode()).digest()),
        timestamp=moment_at(created_us),
    )


def may_be_of(task: object, asked: Asked, first_us: int, last_us: int) -> bool:
    """Whether a task may be what was asked for: made in that time, with an id, and equal in what both say."""
    created_us = created_us_of(task)
    if created_us is None or not first_us <= created_us <= last_us or not _own_id(task):
        return False
    pairs = ((_member(task, "agent_type"), asked.agent_type), (_member(task, "task_description"), asked.task_description))
    return all(theirs is None or ours is None or _text(theirs) == ours for theirs, ours in pairs)


def _own_id(of: object) -> str | None:
    return _text(_member(of, "id")) or _text(_member(of, "task_id"))


def _member(of: object, name: str) -> Any:  # noqa: ANN401  # whatever a user's object has there
    return of.get(name) if isinstance(of, Mapping) else getattr(of, name, None)


def _text(value: object) -> str | None:
    if isinstance(value, Enum):
        value = value.value
    return None if value is None else str(value)
