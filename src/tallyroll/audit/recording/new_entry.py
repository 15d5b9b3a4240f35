"""What a program says of one thing that is to be recorded, before rules, keys and places are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Self, TypeVar, cast

import msgspec
from msgspec.structs import force_setattr

from tallyroll.audit.compliance.pii import MAX_PEOPLE
from tallyroll.audit.entry import AuditEventCategory, AuditSeverity, ComplianceFramework, has_value
from tallyroll.errors import InvalidEvent
from tallyroll.events.context import NO_CONTEXT, EventContext, current_context
from tallyroll.events.payload import clean_payload

_E = TypeVar("_E", bound=StrEnum)
MAX_TEXT: Final = 65_536  # characters of one field; what is longer belongs into the payload


class NewEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that happened. Fields as those of ``AuditEntry``; ``subjects`` are the people it is about.

    Frameworks, category and severity may be given as their values. What is not given of ``correlation_id``, ``session_id``,
    ``user_id`` and ``tenant`` comes from the event context. Raises InvalidEvent, a ValueError, that names the field.
    """

    event_type: str
    category: AuditEventCategory
    action: str
    description: str
    severity: AuditSeverity = AuditSeverity.INFO
    outcome: str = "success"
    user_id: str | None = None
    session_id: str | None = None
    agent_id: str | None = None
    task_id: str | None = None
    workflow_id: str | None = None
    resource: str | None = None
    source_ip: str | None = None
    user_agent: str | None = None
    correlation_id: str | None = None
    payload: dict[str, Any] | None = None
    compliance_frameworks: tuple[ComplianceFramework, ...] = ()
    reason: str | None = None
    actor_type: str | None = None
    on_behalf_of: tuple[str, ...] | None = None
    overseer: str | None = None
    agent: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    tool: str | None = None
    source: str | None = None
    tenant: str | None = None
    purpose: str | None = None
    legal_basis: str | None = None
    before_hash: str | None = None
    after_hash: str | None = None
    event_id: str | None = None
    subjects: tuple[str, ...] = ()

    @classmethod
    def of(cls, event_type: str, category: str, action: str, description: str, **fields: Any) -> Self:  # noqa: ANN401  # see the class
        """The same with the first four by place. Raises TypeError for a field that an entry does not have."""
        return cls(event_type=event_type, category=category, action=action, description=description, **fields)  # type: ignore[arg-type]  # __post_init__ reads it

    def __post_init__(self) -> None:
        _check_texts(self)
        _read_enums(self)
        if self.subjects != () or self.on_behalf_of is not None:
            _read_people(self)
        if self.payload is not None:
            force_setattr(self, "payload", clean_payload(self.payload))
        if self.agent is not None:
            force_setattr(self, "agent", clean_payload(self.agent))
        if self.model is not None:
            force_setattr(self, "model", clean_payload(self.model))
        if (context := current_context()) is not NO_CONTEXT:
            _fill(self, context)


_TEXTS: Final = tuple(
    name
    for name in NewEntry.__struct_fields__
    if name not in ("category", "severity", "compliance_frameworks", "subjects", "on_behalf_of", "payload", "agent", "model")
)
_texts_of: Final = attrgetter(*_TEXTS)
_SAID: Final = ("event_type", "action", "outcome")
_CACHED_SETS: Final = 256  # of frameworks: entries name few
_MEMBERS: Final[Mapping[type[StrEnum], Mapping[str, StrEnum]]] = {
    kind: {member.value: member for member in kind} for kind in (AuditEventCategory, AuditSeverity, ComplianceFramework)
}


def _check_texts(entry: NewEntry) -> None:
    values = _texts_of(entry)
    try:
        text = "".join([value for value in values if value is not None])
    except TypeError:
        text = ""
    if not text.isascii() or not 0 < len(text) <= MAX_TEXT:  # else none of them can be at fault
        for name, value in zip(_TEXTS, values, strict=True):
            if value is not None:
                _check_text(name, value)
    for name in _SAID:
        if not has_value(getattr(entry, name)):
            raise InvalidEvent(name, "expected text that is not blank")
    if entry.description is None:
        raise InvalidEvent("description", "expected text")


def _read_enums(entry: NewEntry) -> None:
    if type(entry.category) is not AuditEventCategory:
        force_setattr(entry, "category", _one_of("category", AuditEventCategory, entry.category))
    if type(entry.severity) is not AuditSeverity:
        force_setattr(entry, "severity", _one_of("severity", AuditSeverity, entry.severity))
    if entry.compliance_frameworks != ():
        force_setattr(entry, "compliance_frameworks", _frameworks(entry))


def _frameworks(entry: NewEntry) -> tuple[ComplianceFramework, ...]:
    try:
        return _frameworks_named(frozenset(_many(entry, "compliance_frameworks")))
    except TypeError:  # what cannot be in a set is none of them
        raise InvalidEvent("compliance_frameworks", f"expected one of {', '.join(ComplianceFramework)}") from None


@lru_cache(_CACHED_SETS)
def _frameworks_named(names: frozenset[object]) -> tuple[ComplianceFramework, ...]:
    return tuple(sorted({_one_of("compliance_frameworks", ComplianceFramework, name) for name in names}))


def _read_people(entry: NewEntry) -> None:
    if entry.subjects != ():
        subjects = tuple(sorted(set(_texts(entry, "subjects"))))
        if len(subjects) > MAX_PEOPLE:
            raise InvalidEvent("subjects", f"expected at most {MAX_PEOPLE}")
        force_setattr(entry, "subjects", subjects)
    if entry.on_behalf_of is not None:
        force_setattr(entry, "on_behalf_of", tuple(_texts(entry, "on_behalf_of")))


def _fill(entry: NewEntry, context: EventContext) -> None:
    for name, given in (
        ("correlation_id", context.correlation_id), ("session_id", context.session_id), ("user_id", context.user_id),
        ("tenant", context.tenant_id),
    ):  # fmt: skip
        if given is not None and getattr(entry, name) is None:
            force_setattr(entry, name, given)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidEvent(name, f"expected text, got {type(value).__name__}")
    if len(value) > MAX_TEXT:
        raise InvalidEvent(name, f"expected at most {MAX_TEXT} characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidEvent(name, "holds text that is not valid Unicode (a lone surrogate)") from None


def _one_of(name: str, kind: type[_E], value: Any) -> _E:  # noqa: ANN401  # whatever it is
    try:
        return cast("_E", _MEMBERS[kind][value]) if type(value) is str else kind(value)  # by its text: a third of the time
    except (KeyError, ValueError):
        raise InvalidEvent(name, f"expected one of {', '.join(kind)}") from None


def _many(entry: NewEntry, name: str) -> Iterable[object]:
    value = getattr(entry, name)
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, (set, frozenset, tuple, list, Iterable)):  # the last one is slow to ask
        raise InvalidEvent(name, "expected a collection")
    return value


def _texts(entry: NewEntry, name: str) -> list[str]:
    found = []
    for value in _many(entry, name):
        _check_text(name, value)
        if not value:
            raise InvalidEvent(name, "expected names that are not empty")
        found.append(str(value))
    return found
