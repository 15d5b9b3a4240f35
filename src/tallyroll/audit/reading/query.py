"""What is asked of the trail, on whose behalf, and what the answers hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, TypedDict

from tallyroll.audit.entry import AuditEventCategory, AuditSeverity, ComplianceFramework
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.errors import LedgerTampered
from tallyroll.events.moments import us_of
from tallyroll.ports import LedgerWanted

PERSONAL: Final = "personal"
"""The scope of a reader who may see sealed fields, and those that are only kept apart."""

MAX_LIMIT: Final = 10_000  # entries of one page: more than a screen or a program looks at, less than fills memory


class Reader(NamedTuple):
    """Who reads, what they may see, and what for; it is recorded with every call that opens something."""

    name: str
    scopes: frozenset[str] = frozenset()
    purpose: str | None = None


KEY_HOLDER: Final = Reader("process", frozenset({PERSONAL}))
"""A program that has the keys and names no reader. Whoever reads on behalf of others says who."""


class AuditPage(TypedDict):
    """A page of the trail. ``total_count`` is of all matches as of ``as_of``, which given back keeps further pages stable.

    ``findings`` are matches of this page that cannot be read, since somebody has altered them: code, partition, index, detail.
    """

    total_count: int
    returned_count: int
    offset: int
    limit: int
    entries: list[dict[str, Any]]
    query_timestamp: str
    as_of: dict[str, int]
    findings: list[dict[str, Any]]


class Answer(NamedTuple):
    """The same as objects."""

    entries: list[AuditEntry]
    total_count: int
    offset: int
    limit: int
    asked_at: datetime
    as_of: dict[str, int]
    findings: Sequence[LedgerTampered] = ()

    def page(self) -> AuditPage:
        """As plain JSON values."""
        return {
            "total_count": self.total_count,
            "returned_count": len(self.entries),
            "offset": self.offset,
            "limit": self.limit,
            "entries": [entry.to_dict() for entry in self.entries],
            "query_timestamp": self.asked_at.isoformat(),
            "as_of": self.as_of,
            "findings": [{"code": one.code, "partition": one.partition, "index": one.index, "detail": one.detail} for one in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a query asks for. Raises ValueError for naive moments and for a name that no entry can have."""

    start_time: datetime | None = None
    end_time: datetime | None = None
    user_id: str | None = None
    agent_id: str | None = None
    task_id: str | None = None
    workflow_id: str | None = None
    category: str | None = None
    severity: str | None = None
    outcome: str | None = None
    event_type: str | None = None
    compliance_framework: str | None = None

    def __post_init__(self) -> None:
        self.of_store()
        for name, value, known in (
            ("category", self.category, AuditEventCategory), ("severity", self.severity, AuditSeverity),
            ("compliance_framework", self.compliance_framework, ComplianceFramework),
        ):  # fmt: skip
            if value is not None and value not in [*known]:
                raise ValueError(f"{name}: expected one of {', '.join(known)}")

    @property
    def names(self) -> list[str]:
        """Which fields were asked for; not their values, which may be personal."""
        return [name for name in self.__slots__ if getattr(self, name) is not None]

    def of_store(self, handles: Sequence[bytes] | None = None) -> LedgerWanted:
        """The same as the store is asked."""
        return LedgerWanted(
            start_us=None if self.start_time is None else zoned_us("start_time", self.start_time),
            end_us=None if self.end_time is None else zoned_us("end_time", self.end_time),
            agent_id=self.agent_id,
            task_id=self.task_id,
            workflow_id=self.workflow_id,
            event_type=self.event_type,
            category=self.category,
            severity=self.severity,
            outcome=self.outcome,
            framework=self.compliance_framework,
            handles=handles,
        )


def zoned_us(name: str, moment: datetime) -> int:
    """Microseconds since 1970. Raises ValueError, with the argument's name, for a moment without a time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{name}: expected a moment with a time zone")
    return us_of(moment)
