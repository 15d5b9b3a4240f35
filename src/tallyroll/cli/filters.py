"""Which events a command shows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from tallyroll.events.event import AgentEvent

Wanted = Callable[[AgentEvent], bool]
"""Whether an event is to be shown."""

_TOP: Final = frozenset(AgentEvent.__struct_fields__)


def event_filter(
    *,
    types: Sequence[str] = (),
    agent: str | None = None,
    task: str | None = None,
    correlation: str | None = None,
    fields: Sequence[str] = (),
) -> Wanted | None:
    """The filter that the options describe, all of them together; None if there are none.

    ``types`` are globs, one of which has to match. ``fields`` are ``path=value``: the path begins at a field of the event,
    else in its payload; the value is compared as text. Raises ValueError for a field without ``=``.
    """
    tests: list[Wanted] = []
    if types:
        tests.append(lambda event: any(fnmatchcase(event.event_type, glob) for glob in types))
    if agent is not None:
        tests.append(lambda event: event.agent_id == agent)
    if task is not None:
        tests.append(lambda event: task in (event.aggregate_id if event.aggregate_type == "task" else None, event.payload.get("task_id")))
    if correlation is not None:
        tests.append(lambda event: event.metadata.correlation_id == correlation)
    tests += [_field(field) for field in fields]
    return (lambda event: all(test(event) for test in tests)) if tests else None


def _field(field: str) -> Wanted:
    path, equals, value = field.partition("=")
    if not equals or not path:
        raise ValueError(f"{field!r} is not path=value, such as tool_name=web_search or metadata.session_id=s-1")
    steps = path.split(".")
    if steps[0] not in _TOP:
        steps.insert(0, "payload")
    return lambda event: _as_text(_at(event, steps)) == value


def _at(event: AgentEvent, steps: Sequence[str]) -> Any:  # noqa: ANN401  # whatever the payload holds there
    value: Any = event
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None if isinstance(value, (str, list, int)) else getattr(value, step, None)
    return value


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)
