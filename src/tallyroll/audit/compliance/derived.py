"""What is made of events that nobody has audited by hand: their category, how long their entries are kept, whose payload is kept.

Data, with defaults that the file of own rules changes. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tallyroll.audit.entry import AuditEventCategory
from tallyroll.events.topics import BUILT_IN

PAYLOAD_TYPES: Final = ("auth.", "authz.", "data.accessed")
"""Types, or beginnings of types that end with a dot, whose payload is kept too, sealed: their topics forget sooner than rules allow."""

CATEGORIES: Final[Mapping[str, AuditEventCategory]] = {
    "agent": AuditEventCategory.AGENT_LIFECYCLE,
    "anomaly": AuditEventCategory.SECURITY_INCIDENT,
    "audit": AuditEventCategory.AUDIT_SYSTEM,
    "auth": AuditEventCategory.AUTHENTICATION,
    "authz": AuditEventCategory.AUTHORIZATION,
    "compliance": AuditEventCategory.COMPLIANCE_VIOLATION,
    "configuration": AuditEventCategory.CONFIGURATION_CHANGE,
    "data": AuditEventCategory.DATA_ACCESS,
    "message": AuditEventCategory.WORKFLOW_EXECUTION,
    "performance": AuditEventCategory.RESOURCE_USAGE,
    "resource": AuditEventCategory.RESOURCE_USAGE,
    "state": AuditEventCategory.DATA_MODIFICATION,
    "task": AuditEventCategory.TASK_EXECUTION,
    "tool": AuditEventCategory.TASK_EXECUTION,
    "workflow": AuditEventCategory.WORKFLOW_EXECUTION,
}
"""By the type, else by its first word; what is in neither is an entry of SYSTEM_ACCESS."""

RETENTION_DAYS: Final[Mapping[str, int]] = {"performance-events": 30, "system-events": 90}
"""By topic; entries of the others are kept as long as those that no rule speaks of."""

_Type = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\.?$")]
_Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$")]
_Days = Annotated[int, Meta(ge=1, le=36_500)]


class DerivedEntries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How derived entries are made.

    ``payload_types`` takes the place of the default; ``categories`` and ``retention_days`` are beside theirs, by type or its first
    word and by topic. Raises ValueError for a topic that users' events do not go to.
    """

    payload_types: tuple[_Type, ...] = PAYLOAD_TYPES
    categories: dict[_Name, AuditEventCategory] = {}
    retention_days: dict[str, _Days] = {}

    def __post_init__(self) -> None:
        topics = [topic.base for topic in BUILT_IN if topic.user]
        if unknown := sorted(set(self.retention_days) - set(topics)):
            raise ValueError(f"retention_days: {', '.join(unknown)} is none of {', '.join(topics)}")

    @property
    def category_of(self) -> Mapping[str, AuditEventCategory]:
        """By type or first word, the defaults among them."""
        return {**CATEGORIES, **self.categories}

    @property
    def days_of(self) -> Mapping[str, int]:
        """By topic, the defaults among them."""
        return {**RETENTION_DAYS, **self.retention_days}
