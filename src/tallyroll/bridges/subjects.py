"""The subjects that events are forwarded to. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from string import Formatter
from typing import Final

from tallyroll.errors import SettingsError
from tallyroll.events.event import AgentEvent

FIELDS: Final = ("aggregate_id", "agent_id", "event_type", "tenant")
"""What a template may name."""

NOBODY: Final = "-"
"""Stands for an agent or a tenant that an event does not name."""

_VARIABLE: Final = "TALLYROLL_NATS_SUBJECT"
_UNSAFE: Final = re.compile(r"[.*>%\s\x00-\x1f\x7f]")
_LITERAL: Final = re.compile(r"[^\s*>\x00-\x1f\x7f]*")


def check_template(template: str) -> None:
    """Raises SettingsError for a template that does not give a subject, whatever the event is."""
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise SettingsError(_VARIABLE, f"not a template: {error}") from None
    for literal, field, form, conversion in pieces:
        if field is not None and (field not in FIELDS or form or conversion):
            raise SettingsError(_VARIABLE, f"expected only {', '.join('{' + name + '}' for name in FIELDS)}")
        if not _LITERAL.fullmatch(literal):
            raise SettingsError(_VARIABLE, "expected no blanks and no wildcards")
    if not all(example_of(template).split(".")):
        raise SettingsError(_VARIABLE, "expected something between every two dots")


def example_of(template: str) -> str:
    """A subject as events may have it: what covers it covers them."""
    return template.format(**dict.fromkeys(FIELDS, "x"))


def subject_of(template: str, event: AgentEvent) -> str:
    """The event's subject. What has a meaning in subjects is percent-encoded in ids, so that each id is one token."""
    return template.format(
        aggregate_id=token(event.aggregate_id),
        agent_id=token(event.agent_id or NOBODY),
        event_type=event.event_type,
        tenant=token(event.metadata.tenant_id or NOBODY),
    )


@lru_cache(maxsize=4_096)  # the same agents over and over
def token(text: str) -> str:
    """The text as one token of a subject; ``urllib.parse.unquote`` gives it back."""
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
