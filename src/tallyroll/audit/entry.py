"""What an audit entry is about, how much it matters, and which of its fields are personal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final, Never


class AuditEventCategory(StrEnum):
    """What an entry is about; rules apply by it."""

    AUTHENTICATION = "authentication"
    AUTHORIZATION = "authorization"
    DATA_ACCESS = "data_access"
    DATA_MODIFICATION = "data_modification"
    DATA_DELETION = "data_deletion"
    SYSTEM_ACCESS = "system_access"
    CONFIGURATION_CHANGE = "configuration_change"
    PRIVILEGE_ESCALATION = "privilege_escalation"
    SECURITY_INCIDENT = "security_incident"
    COMPLIANCE_VIOLATION = "compliance_violation"
    AGENT_LIFECYCLE = "agent_lifecycle"
    TASK_EXECUTION = "task_execution"
    WORKFLOW_EXECUTION = "workflow_execution"
    RESOURCE_USAGE = "resource_usage"
    ERROR_CONDITION = "error_condition"
    AUDIT_SYSTEM = "audit_system"
    PRIVACY = "privacy"
    DATA_EXPORT = "data_export"
    AI_DECISION = "ai_decision"
    OVERSIGHT = "oversight"


class AuditSeverity(StrEnum):
    """How much an entry, or the breach of a rule, matters."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"


class ComplianceFramework(StrEnum):
    """Who demands it. CUSTOM is the house itself."""

    SOX = "sox"
    GDPR = "gdpr"
    HIPAA = "hipaa"
    PCI_DSS = "pci_dss"
    SOC2 = "soc2"
    ISO27001 = "iso27001"
    NIST = "nist"
    EU_AI_ACT = "eu_ai_act"
    CUSTOM = "custom"

    @classmethod
    def _missing_(cls, value: object) -> Never:
        raise ValueError(f"framework: there is no {value!r}; expected one of {', '.join(cls)}")


SEALED_FIELDS: Final = frozenset(
    {"user_id", "session_id", "source_ip", "user_agent", "resource", "description", "payload", "on_behalf_of", "overseer"}
)
"""Fields of an entry that are sealed unless encryption is switched off; all others are in clear, and may not be personal."""


def field_of(entry: Mapping[str, object], path: str) -> object:
    """The value at a dotted path, such as ``payload.amount``; None where there is none."""
    value: object = entry
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def has_value(value: object) -> bool:
    """Whether it says something: not None, not empty, not blank. 0 and False do."""
    if value is None:
        return False
    if isinstance(value, str):
        return bool(value) and not value.isspace()
    if isinstance(value, (dict, list, tuple, set, frozenset, Mapping)):  # the last one is slow to ask, so it comes last
        return bool(value)
    return True


def texts_of(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text and number inside a value, with its path; keys of objects too. Deep nesting is walked, not recursed into."""
    waiting = [(path, value)]
    while waiting:
        where, item = waiting.pop()
        if isinstance(item, str):
            yield where, item
        elif isinstance(item, (int, float)) and not isinstance(item, bool):
            yield where, str(item)
        elif isinstance(item, Mapping):
            waiting += [(f"{where}.{key}" if where else str(key), inner) for key, inner in item.items()]
            yield from ((where, key) for key in item if isinstance(key, str))
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += [(f"{where}[{index}]", inner) for index, inner in enumerate(item)]
